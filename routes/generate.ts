/** POST /v1/generate: the whole answer as JSON, or its frames as server-sent events. */
import type { Context, Handler } from "hono";
import type { Engine } from "../src/mod.ts";
import { RequestError } from "./errors.ts";
import type { ResolvedAppOptions } from "./options.ts";
import {
  type GenerateRequest,
  parseBody,
  type WireFrame,
  wireFrames,
  wireTimings,
  wireUsage,
} from "./wire.ts";

/** The handler; errors are thrown, the app's error handler answers them. */
export function generateRoute(engine: Engine, options: ResolvedAppOptions): Handler {
  return async (c) => {
    // Only this type makes a browser ask before another site's page may post here.
    if (!/^application\/json\s*(;|$)/i.test(c.req.header("content-type") ?? "")) {
      throw new RequestError(
        "unsupported_media_type",
        "the body must be JSON, sent with the header content-type: application/json",
      );
    }
    const { stream, ...request } = parseBody(await readBody(c.req.raw, options.maxRequestBytes));
    if (options.stopping.aborted) {
      throw new RequestError("engine_closed", "the server is stopping");
    }
    const id = `gen-${crypto.randomUUID()}`;
    return stream ? streamed(engine, request, id, options) : await whole(engine, request, id, c);
  };
}

/**
 * The body as text. Hono's bodyLimit is not used because it cannot tell a client that left in the middle of its body from a
 * failure of the server.
 */
async function readBody(request: Request, limit: number): Promise<string> {
  const tooLarge = () =>
    new RequestError("payload_too_large", `the body has more than ${limit} bytes`);
  if (Number(request.headers.get("content-length")) > limit) throw tooLarge();
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  try {
    for await (const piece of request.body ?? []) {
      size += piece.length;
      if (size > limit) throw tooLarge();
      pieces.push(piece);
    }
  } catch (cause) {
    if (cause instanceof RequestError) throw cause;
    throw new RequestError("cancelled", "the body was cut off", { cause });
  }
  return await new Blob(pieces).text();
}

async function whole(
  engine: Engine,
  { prompt, options }: GenerateRequest,
  id: string,
  c: Context,
): Promise<Response> {
  const end = await engine.generate(prompt, { ...options, signal: c.req.raw.signal });
  return c.json({
    id,
    model: engine.manifest.name,
    text: end.text,
    finish_reason: end.finishReason,
    usage: wireUsage(end.usage),
    timings: wireTimings(end.timings),
  });
}

/**
 * One `data:` event per frame. A stream of our own and not Hono's streamSSE, because its writes succeed in silence after the
 * client has gone, and because it answers what goes wrong with text that is not a frame.
 */
function streamed(
  engine: Engine,
  { prompt, options }: GenerateRequest,
  id: string,
  { onFault }: ResolvedAppOptions,
): Response {
  const gone = new AbortController();
  const frames = wireFrames(
    engine.stream(prompt, { ...options, signal: gone.signal }), // throws rejections here, before any header
    { id, model: engine.manifest.name, onFault },
  );
  const utf8 = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) { // called once at once, so that the generation is never left unread
      const { done, value } = await frames.next();
      if (gone.signal.aborted) return;
      if (done) controller.close();
      else controller.enqueue(utf8.encode(serverSentEvent(value)));
    },
    cancel() {
      gone.abort();
    },
  });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream",
      // A proxy or the runtime that compresses or collects events would hold them back.
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
    },
  });
}

/** JSON holds no raw line break, so one data line is always enough. */
function serverSentEvent(frame: WireFrame): string {
  return `data: ${JSON.stringify(frame)}\n\n`;
}
