/** What went wrong, in a closed list that callers can switch over. */
export type EngineErrorCode =
  | "invalid_request"
  | "context_exceeded"
  | "queue_full"
  | "cancelled"
  | "engine_closed"
  | "backend_unavailable"
  | "backend_failed"
  | "bundle_invalid"
  | "checkpoint_unavailable"
  | "checkpoint_unsupported";

/**
 * A failure that a caller of the engine handles. Programmer mistakes are `TypeError` / `RangeError` instead.
 *
 * @example
 * ```ts
 * import { EngineError } from "./errors.ts";
 * const error = new EngineError("context_exceeded", "prompt has 600 tokens; the context holds 512", { param: "prompt" });
 * if (error.code !== "context_exceeded" || error.param !== "prompt") throw new Error("unreachable");
 * ```
 */
export class EngineError extends Error {
  override readonly name = "EngineError";
  /** The kind of failure. */
  readonly code: EngineErrorCode;
  /** The option or field at fault, where one is. */
  readonly param: string | undefined;

  constructor(
    code: EngineErrorCode,
    message: string,
    options: { param?: string; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.param = options.param;
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
