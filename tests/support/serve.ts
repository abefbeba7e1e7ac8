/** A server on a real port over a scripted model, and the plain clients that tests talk to it with. */
import {
  type AppOptions,
  createApp,
  type WireFrame,
  type WireToken,
  type WireUsage,
} from "../../routes/mod.ts";
import { Engine } from "../../src/engine.ts";
import type { TextCodec } from "../../src/tokenizer.ts";
import { byteTokenizer } from "./byte_tokenizer.ts";
import {
  scriptedManifest,
  type ScriptedOptions,
  type ScriptedSession,
  scriptedSession,
} from "./scripted_session.ts";

export interface TestEngine extends AsyncDisposable {
  readonly engine: Engine;
  readonly session: ScriptedSession;
}

/** How a test's engine is made. */
export interface TestEngineOptions extends ScriptedOptions {
  readonly manifest?: Parameters<typeof scriptedManifest>[0];
  readonly codec?: TextCodec;
  readonly slots?: number;
  readonly waiting?: number;
}

/** An engine over a script. */
export function openEngine(options: TestEngineOptions = {}): TestEngine {
  const session = scriptedSession(options);
  const codec = options.codec ?? byteTokenizer();
  const engine = new Engine(scriptedManifest(options.manifest), codec, session, options);
  return { engine, session, [Symbol.asyncDispose]: () => engine.close() };
}

export interface TestServer extends TestEngine {
  /** `http://127.0.0.1:port`, no slash at the end. */
  readonly url: string;
  readonly port: number;
}

/** Serves an app on a free port until it is disposed of. */
export function openServer(options: TestEngineOptions & { app?: AppOptions } = {}): TestServer {
  const { engine, session } = openEngine(options);
  const app = createApp(engine, options.app);
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, app.fetch);
  const { port } = server.addr;
  return {
    engine,
    session,
    port,
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      await engine.close();
      await server.shutdown();
    },
  };
}

/** Posts JSON, as most clients do. */
export function post(body: unknown, headers: Record<string, string> = {}): RequestInit {
  return {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  };
}

/** A frame with every field that some frame has; tests look at the ones they expect. */
export interface AnyFrame {
  readonly type: WireFrame["type"];
  readonly id?: string;
  readonly model?: string;
  readonly block?: number;
  readonly step?: number;
  readonly tokens?: readonly WireToken[];
  readonly text?: string;
  readonly finish_reason?: string;
  readonly usage?: WireUsage;
  readonly code?: string;
  readonly message?: string;
  readonly param?: string;
}

/** A WebSocket client whose frames are read one after another. */
export interface TestSocket extends AsyncDisposable {
  readonly raw: WebSocket;
  send(message: unknown): void;
  /** The next frame; rejects once the socket is closed and all are read. */
  next(): Promise<AnyFrame>;
  /** Frames up to and including the last one of generation `id`; others are kept for later. */
  until(id: string): Promise<AnyFrame[]>;
  /** Resolves when the socket has closed. */
  readonly closed: Promise<CloseEvent>;
}

/** Connects, and waits until the socket is open. */
export async function openSocket(url: string): Promise<TestSocket> {
  const raw = new WebSocket(url.replace(/^http/, "ws") + "/v1/stream");
  const arrived: AnyFrame[] = [];
  let waiting: (() => void)[] = [];
  let over = false;
  const wake = () => {
    for (const resume of waiting) resume();
    waiting = [];
  };
  const closed = new Promise<CloseEvent>((resolve) =>
    raw.onclose = (event) => {
      over = true;
      wake();
      resolve(event);
    }
  );
  raw.onmessage = ({ data }) => {
    arrived.push(JSON.parse(data));
    wake();
  };
  await new Promise<void>((resolve, reject) => {
    raw.onopen = () => resolve();
    raw.onerror = (event) => reject(new Error("message" in event ? `${event.message}` : "socket"));
  });
  raw.onerror = () => {};
  const take = async (wanted: (frame: AnyFrame) => boolean): Promise<AnyFrame> => {
    while (true) {
      const at = arrived.findIndex(wanted);
      if (at >= 0) return arrived.splice(at, 1)[0];
      if (over) throw new Error("the socket has closed");
      await new Promise<void>((resolve) => waiting.push(resolve));
    }
  };
  return {
    raw,
    closed,
    send: (message) => raw.send(JSON.stringify(message)),
    next: () => take(() => true),
    async until(id) {
      const frames: AnyFrame[] = [];
      while (true) {
        const frame = await take((frame) => frame.id === id);
        frames.push(frame);
        if (frame.type === "end" || frame.type === "error") return frames;
      }
    },
    async [Symbol.asyncDispose]() {
      if (raw.readyState === WebSocket.OPEN) raw.close();
      await closed;
    },
  };
}

/** Reads the frames of an SSE response, and checks the framing. */
export async function* readEvents(response: Response): AsyncGenerator<AnyFrame> {
  if (response.body === null) throw new Error("no body");
  let text = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    text += piece;
    const events = text.split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      if (!/^data: .*$/.test(event)) throw new Error(`not one data line: ${event}`);
      yield JSON.parse(event.slice(6));
    }
  }
  if (text !== "") throw new Error(`half an event at the end: ${text}`);
}

/** Waits until `condition` holds, at most `timeoutMs`. */
export async function eventually(
  condition: () => boolean,
  what: string,
  timeoutMs = 5000,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`${timeoutMs} ms passed: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
