/** GET /v1/stream: a WebSocket that carries several generations at once. */
import type { Handler } from "hono";
import type { Engine } from "../src/mod.ts";
import { drainOf } from "./drain.ts";
import { isFault, RequestError } from "./errors.ts";
import type { ResolvedAppOptions } from "./options.ts";
import {
  errorFrame,
  type GenerateRequest,
  idOf,
  parseJson,
  parseMessage,
  type WireFrame,
  wireFrames,
} from "./wire.ts";

/** Close codes of RFC 6455, section 7.4.1. */
const GOING_AWAY = 1001, POLICY_VIOLATION = 1008;

/**
 * The handler. It calls Deno itself, because Hono's upgradeWebSocket for Deno is deprecated, and hides the socket whose
 * `bufferedAmount` has to be watched.
 */
export function streamRoute(engine: Engine, options: ResolvedAppOptions): Handler {
  return (c) => {
    if (c.req.header("upgrade")?.toLowerCase() !== "websocket") {
      const message = "this path speaks WebSocket; send an upgrade request";
      throw new RequestError("upgrade_required", message);
    }
    // Browsers let every page open a socket to every server; only the server can say no.
    if (!originAllowed(c.req.header("origin"), c.req.header("host"), options.cors)) {
      const message =
        "pages of other origins may not connect; the server's cors option lists who may";
      throw new RequestError("origin_forbidden", message);
    }
    try {
      const { socket, response } = Deno.upgradeWebSocket(c.req.raw, {
        idleTimeout: options.idleTimeout,
      });
      attend(socket, engine, options);
      return response;
    } catch (cause) {
      throw new RequestError("invalid_request", "the WebSocket upgrade request is incomplete", {
        cause,
      });
    }
  };
}

function originAllowed(
  origin: string | undefined,
  host: string | undefined,
  cors: readonly string[],
): boolean {
  if (origin === undefined || cors.includes("*") || cors.includes(origin)) return true;
  return URL.canParse(origin) && new URL(origin).host === host; // "null" cannot be parsed
}

/** Serves one socket until it closes. Its handlers are the only writers of `running`. */
function attend(socket: WebSocket, engine: Engine, options: ResolvedAppOptions): void {
  const running = new Map<string, AbortController>();
  const drain = drainOf(socket, options.socketBufferBytes);
  const facts = { model: engine.manifest.name, onFault: options.onFault };

  const send = (frame: WireFrame) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
  };
  const fail = (error: unknown, id?: string) => {
    if (isFault(error)) options.onFault(error);
    send(errorFrame(error, id));
  };
  const cancelAll = () => {
    for (const generation of running.values()) generation.abort();
  };
  const closeIfStopping = () => {
    if (!options.stopping.aborted || running.size > 0) return;
    if (socket.readyState === WebSocket.OPEN) socket.close(GOING_AWAY, "the server is stopping");
  };

  const generate = async (id: string, { prompt, options: asked }: GenerateRequest) => {
    if (options.stopping.aborted) {
      throw new RequestError("engine_closed", "the server is stopping");
    }
    if (running.size >= options.generationsPerSocket) {
      throw new RequestError("queue_full", `this socket runs ${running.size} generations already`);
    }
    const cancelled = new AbortController();
    const frames = engine.stream(prompt, { ...asked, signal: cancelled.signal });
    running.set(id, cancelled);
    for await (const frame of wireFrames(frames, { ...facts, id })) {
      if (frame.type === "end" || frame.type === "error") running.delete(id); // the id is free again
      send(frame);
      await drain.drained();
    }
    closeIfStopping();
  };

  const answer = async (json: unknown) => {
    let id = idOf(json);
    // An error with a running id would read as the end of that generation.
    if (id !== undefined && running.has(id)) id = undefined;
    try {
      const message = parseMessage(json);
      if (message.type === "cancel") return running.get(message.id)?.abort(); // it may just have ended
      if (running.has(message.id)) {
        throw new RequestError("invalid_request", `id: ${message.id} is running already`, {
          param: "id",
        });
      }
      await generate(message.id, message.request);
    } catch (error) {
      fail(error, id);
    }
  };

  socket.onopen = closeIfStopping;
  socket.onmessage = ({ data }: MessageEvent<unknown>) => {
    if (socket.bufferedAmount > 4 * options.socketBufferBytes) {
      cancelAll(); // it asks and asks, and reads nothing
      return socket.close(POLICY_VIOLATION, "too many unread frames");
    }
    try {
      if (typeof data !== "string") {
        throw new RequestError("invalid_request", "a message must be text, not binary");
      }
      if (data.length > options.maxRequestBytes) {
        throw new RequestError(
          "invalid_request",
          `the message has ${data.length} characters; at most ${options.maxRequestBytes} are read`,
        );
      }
      void answer(parseJson(data)); // catches what it throws
    } catch (error) {
      fail(error);
    }
  };
  socket.onclose = () => {
    cancelAll();
    drain.close();
    options.sockets.delete(socket);
    options.stopping.removeEventListener("abort", closeIfStopping);
  };
  socket.onerror = () => {}; // onclose follows and cleans up
  options.sockets.add(socket);
  options.stopping.addEventListener("abort", closeIfStopping);
}
