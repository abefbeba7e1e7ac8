/** From what was thrown to what a client reads: a code of a closed list, a message, the field at fault. */
import { EngineError, type EngineErrorCode, optionEntries } from "../src/mod.ts";
import { snakeCase } from "./names.ts";

/** Every code that a client may see. */
export type WireErrorCode =
  | EngineErrorCode
  | "not_found"
  | "method_not_allowed"
  | "payload_too_large"
  | "unsupported_media_type"
  | "upgrade_required"
  | "origin_forbidden"
  | "internal";

/** HTTP status of each code. */
const STATUS: Readonly<Record<WireErrorCode, number>> = {
  invalid_request: 400,
  context_exceeded: 400,
  origin_forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  payload_too_large: 413,
  unsupported_media_type: 415,
  upgrade_required: 426,
  cancelled: 499, // nginx: the client closed the request; it will hardly read this
  backend_failed: 500,
  bundle_invalid: 500,
  checkpoint_unavailable: 500,
  checkpoint_unsupported: 500,
  internal: 500,
  backend_unavailable: 503,
  engine_closed: 503,
  queue_full: 503,
};

/** Seconds after which a full queue is worth another try. */
const RETRY_AFTER = "1";

/** The error as it goes over the wire. */
export interface WireError {
  readonly code: WireErrorCode;
  readonly message: string;
  /** The field at fault, null where none is. */
  readonly param: string | null;
}

/** What the edge itself refuses, before an engine hears of it; it speaks in wire names already. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly code: WireErrorCode;
  /** The field at fault, where one is. */
  readonly param: string | undefined;

  constructor(
    code: WireErrorCode,
    message: string,
    options: { readonly param?: string; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.param = options.param;
  }
}

const CAMEL_NAMES = Object.keys(optionEntries).filter((name) => name !== snakeCase(name));
const CAMEL_PATTERN = new RegExp(`\\b(?:${CAMEL_NAMES.join("|")})\\b`, "g");

/** What a client may know of anything that was thrown: an unexpected error keeps its details to itself. */
export function wireError(error: unknown): WireError {
  if (error instanceof RequestError) {
    return { code: error.code, message: error.message, param: error.param ?? null };
  }
  if (!(error instanceof EngineError)) {
    return { code: "internal", message: "the server failed; its log says why", param: null };
  }
  return {
    code: error.code,
    message: error.message.replace(CAMEL_PATTERN, snakeCase), // the engine says maxTokens
    param: error.param === undefined ? null : snakeCase(error.param),
  };
}

/** Whether an error is the server's fault, so that its log must hear of it. */
export function isFault(error: unknown): boolean {
  if (error instanceof RequestError) return false;
  return !(error instanceof EngineError) || STATUS[error.code] === 500;
}

/** The JSON response of an error. */
export function errorResponse(error: WireError): Response {
  const response = Response.json({ error }, { status: STATUS[error.code] });
  if (error.code === "upgrade_required") response.headers.set("upgrade", "websocket");
  if (error.code === "queue_full") response.headers.set("retry-after", RETRY_AFTER);
  return response;
}

/** For a path that does not exist. */
export function notFound(path: string): Response {
  return errorResponse(wireError(new RequestError("not_found", `there is no ${path}`)));
}

/** For a path that exists, but not for this method. */
export function methodNotAllowed(method: string, allowed: string): Response {
  const message = `${method} is not allowed here; allowed: ${allowed}`;
  const response = errorResponse(wireError(new RequestError("method_not_allowed", message)));
  response.headers.set("allow", allowed);
  return response;
}
