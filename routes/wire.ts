/** The wire format: requests parsed once and strictly, frames turned into JSON. Names are snake_case here and nowhere else. */
import {
  type FinishReason,
  type Frame,
  type FrameToken,
  type GenerateOptions,
  optionEntries,
  type Timings,
  type TokenState,
  type Usage,
} from "../src/mod.ts";
import * as v from "valibot";
import { isFault, RequestError, wireError, type WireErrorCode } from "./errors.ts";
import { camelCase, type SnakeCase, snakeCase } from "./names.ts";

type WireEntries = { [K in keyof typeof optionEntries as SnakeCase<K>]: typeof optionEntries[K] };

const generateEntries = {
  prompt: v.string("must be a string"),
  ...renamed(),
};

/** The engine's options under their wire names, so that each range and message is written once. */
function renamed(): WireEntries {
  const pairs = Object.entries(optionEntries).map(([name, schema]) => [snakeCase(name), schema]);
  return Object.fromEntries(pairs) as WireEntries; // fromEntries forgets which key has which value
}

const BodySchema = v.strictObject({
  ...generateEntries,
  stream: v.optional(v.boolean("must be true or false")),
});

const idSchema = v.pipe(
  v.string("must be a string"),
  v.minLength(1, "must have 1 to 64 characters"),
  v.maxLength(64, "must have 1 to 64 characters"),
);

const MESSAGES = {
  generate: v.strictObject({
    type: v.literal("generate"),
    id: idSchema,
    ...generateEntries,
    stream: v.optional(v.literal(true, "must be true: a socket always streams")),
  }),
  cancel: v.strictObject({ type: v.literal("cancel"), id: idSchema }),
};

/** What a client asks to be generated. */
export interface GenerateRequest {
  readonly prompt: string;
  readonly options: GenerateOptions;
}

/** What a client says on the socket. */
export type ClientMessage =
  | { readonly type: "generate"; readonly id: string; readonly request: GenerateRequest }
  | { readonly type: "cancel"; readonly id: string };

/**
 * Parses the body of `POST /v1/generate`.
 *
 * @throws {RequestError} `invalid_request`, naming the field
 */
export function parseBody(text: string): GenerateRequest & { readonly stream: boolean } {
  const { prompt, stream = false, ...options } = parse(BodySchema, parseJson(text));
  return { prompt, stream, options: engineOptions(options) };
}

/**
 * Parses a message of a client on the socket.
 *
 * @throws {RequestError} `invalid_request`, naming the field
 */
export function parseMessage(json: unknown): ClientMessage {
  const { type } = v.parse(v.fallback(v.object({ type: v.unknown() }), { type: undefined }), json);
  if (type === "cancel") return parse(MESSAGES.cancel, json);
  if (type === "generate") {
    const { type, id, prompt, stream: _, ...options } = parse(MESSAGES.generate, json);
    return { type, id, request: { prompt, options: engineOptions(options) } };
  }
  const names = Object.keys(MESSAGES).join(", ");
  if (v.is(v.looseObject({}), json) && !Array.isArray(json)) {
    throw new RequestError("invalid_request", `type: must be one of ${names}`, { param: "type" });
  }
  throw new RequestError("invalid_request", "a message must be a JSON object");
}

/** @throws {RequestError} `invalid_request` without a param */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new RequestError("invalid_request", "the request is not valid JSON", { cause });
  }
}

/** The id that a message carries, if it is one that a reply can carry too. */
export function idOf(json: unknown): string | undefined {
  const result = v.safeParse(v.object({ id: idSchema }), json);
  return result.success ? result.output.id : undefined;
}

function parse<
  Schema extends v.StrictObjectSchema<v.ObjectEntries, undefined>,
>(schema: Schema, json: unknown): v.InferOutput<Schema> {
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const param = v.getDotPath(issue)?.slice(0, 64); // a client's own key is as long as it likes
  if (param === undefined || Array.isArray(json)) {
    throw new RequestError("invalid_request", "the request must be a JSON object");
  }
  let fact = issue.message;
  if (issue.type === "strict_object") {
    fact = issue.expected === "never"
      ? `is not an option; the options are ${Object.keys(schema.entries).join(", ")}`
      : "is required";
  }
  throw new RequestError("invalid_request", `${param}: ${fact}`, { param });
}

function engineOptions(options: v.InferOutput<v.StrictObjectSchema<WireEntries, undefined>>) {
  const pairs = Object.entries(options).map(([name, value]) => [camelCase(name), value]);
  return Object.fromEntries(pairs) as GenerateOptions; // fromEntries forgets which key has which value
}

/** `[text, state, confidence]` */
export type WireToken = readonly [text: string, state: TokenState, confidence: number];

export interface WireUsage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly forward_passes: number;
}

export interface WireTimings {
  readonly queue_ms: number;
  readonly prefill_ms: number;
  readonly first_frame_ms: number;
  readonly total_ms: number;
  readonly tokens_per_second: number;
}

/**
 * What a client reads, over a WebSocket or as SSE. An `error` that carries an id is the last frame of that generation; one
 * without an id answers a message that started nothing.
 */
export type WireFrame =
  | {
    readonly type: "start";
    readonly id: string;
    readonly model: string;
    readonly prompt_tokens: number;
    readonly block_length: number;
  }
  | {
    readonly type: "draft";
    readonly id: string;
    readonly block: number;
    readonly step: number;
    readonly tokens: readonly WireToken[];
    readonly text: string;
  }
  | {
    readonly type: "commit";
    readonly id: string;
    readonly block: number;
    readonly text: string;
    readonly tokens: readonly WireToken[];
  }
  | {
    readonly type: "end";
    readonly id: string;
    readonly finish_reason: FinishReason;
    readonly text: string;
    readonly usage: WireUsage;
    readonly timings: WireTimings;
  }
  | {
    readonly type: "error";
    readonly id?: string;
    readonly code: WireErrorCode;
    readonly message: string;
    readonly param?: string;
  };

/** What the frames of a generation say besides what the engine says. */
export interface WireFacts {
  readonly id: string;
  readonly model: string;
  /** Hears of a failure that is not the client's fault. */
  readonly onFault: (error: unknown) => void;
}

/** The frames of one generation as a client reads them: what the engine throws becomes the last frame. */
export async function* wireFrames(
  frames: AsyncIterable<Frame>,
  facts: WireFacts,
): AsyncGenerator<WireFrame, void, undefined> {
  try {
    for await (const frame of frames) yield wireFrame(frame, facts);
  } catch (error) {
    if (isFault(error)) facts.onFault(error);
    yield errorFrame(error, facts.id);
  }
}

/** The error frame of anything that was thrown. */
export function errorFrame(error: unknown, id?: string): WireFrame {
  const { code, message, param } = wireError(error);
  return {
    type: "error",
    ...id === undefined ? {} : { id },
    code,
    message,
    ...param === null ? {} : { param },
  };
}

function wireFrame(frame: Frame, { id, model }: WireFacts): WireFrame {
  switch (frame.type) {
    case "start": {
      const { type, promptTokens, blockLength } = frame;
      return { type, id, model, prompt_tokens: promptTokens, block_length: blockLength };
    }
    case "draft": {
      const { type, block, step, tokens, text } = frame;
      return { type, id, block, step, tokens: tokens.map(wireToken), text };
    }
    case "commit": {
      const { type, block, text, tokens } = frame;
      return { type, id, block, text, tokens: tokens.map(wireToken) };
    }
    case "end": {
      const { type, finishReason, text, usage, timings } = frame;
      return {
        type,
        id,
        finish_reason: finishReason,
        text,
        usage: wireUsage(usage),
        timings: wireTimings(timings),
      };
    }
  }
}

const wireToken = ({ text, state, confidence }: FrameToken): WireToken => [
  text,
  state,
  Math.round(confidence * 1e4) / 1e4,
];

export function wireUsage(usage: Usage): WireUsage {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    forward_passes: usage.forwardPasses,
  };
}

export function wireTimings(timings: Timings): WireTimings {
  const round = (value: number) => Math.round(value * 100) / 100;
  return {
    queue_ms: round(timings.queueMs),
    prefill_ms: round(timings.prefillMs),
    first_frame_ms: round(timings.firstFrameMs),
    total_ms: round(timings.totalMs),
    tokens_per_second: round(timings.tokensPerSecond),
  };
}
