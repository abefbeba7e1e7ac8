import { assert, assertEquals } from "@std/assert";
import type { TextCodec } from "../../src/tokenizer.ts";
import { drainOf } from "../../routes/drain.ts";
import { byteTokenizer } from "../support/byte_tokenizer.ts";
import { type AnyFrame, eventually, openServer, type TestServer } from "../support/serve.ts";

/** Every token becomes a long text, so that frames soon fill what the system buffers between two sockets. */
const WIDE = 4000;
const wide: TextCodec = {
  ...byteTokenizer(),
  stream: () => ({ push: (ids) => ids.map(() => "x".repeat(WIDE)), flush: () => "" }),
};

const request = {
  prompt: "x",
  max_tokens: 240,
  block_length: 16,
  unmasking: "sequential",
  denoising_steps: 16,
};
const STEPS = 240; // one token per step: 240 drafts and commits of up to 128 kB, 15 MB in all

/** A client on bare TCP: it reads nothing until told to, and then all that comes until `enough`. */
interface RawClient extends Disposable {
  /** Whether the server took it. */
  write(bytes: Uint8Array): Promise<boolean>;
  readAll(enough: (latest: string) => boolean): Promise<Uint8Array>;
}

async function rawClient(server: TestServer, first: Uint8Array): Promise<RawClient> {
  const connection = await Deno.connect({ port: server.port });
  const write = async (bytes: Uint8Array) => {
    try {
      for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
      return true;
    } catch {
      return false; // the server has closed
    }
  };
  await write(first);
  return {
    write,
    async readAll(enough) {
      const pieces: Uint8Array<ArrayBuffer>[] = [];
      for (let latest = ""; !enough(latest);) {
        const buffer = new Uint8Array(1 << 16);
        const count = await connection.read(buffer);
        if (count === null) break;
        pieces.push(buffer.subarray(0, count));
        latest = latest.slice(-1000) + new TextDecoder().decode(buffer.subarray(0, count));
      }
      return await new Blob(pieces).bytes();
    },
    [Symbol.dispose]: () => connection.close(),
  };
}

function httpRequest(first: string, headers: Record<string, string>, body = ""): Uint8Array {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return new TextEncoder().encode(`${first}\r\nhost: x\r\n${lines.join("")}\r\n${body}`);
}

const handshake = httpRequest("GET /v1/stream HTTP/1.1", {
  connection: "upgrade",
  upgrade: "websocket",
  "sec-websocket-version": "13",
  "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
});

/** What follows the head of a response. */
function bodyOf(bytes: Uint8Array): Uint8Array {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, 4096));
  return bytes.subarray(text.indexOf("\r\n\r\n") + 4);
}

/** A text frame of RFC 6455, masked with zeros as clients may. */
function textFrame(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  return Uint8Array.from([0x81, 0xfe, bytes.length >> 8, bytes.length & 255, 0, 0, 0, 0, ...bytes]);
}

/** The texts of unmasked, unfragmented frames (RFC 6455, section 5.2). */
function* textsOf(bytes: Uint8Array): Generator<string> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length;) {
    const opcode = bytes[at] & 15;
    const short = bytes[at + 1];
    const head = short < 126 ? 2 : short === 126 ? 4 : 10;
    const length = head === 2
      ? short
      : head === 4
      ? view.getUint16(at + 2)
      : Number(view.getBigUint64(at + 2));
    const from = at + head;
    at = from + length;
    if (opcode === 1) yield new TextDecoder().decode(bytes.subarray(from, at));
  }
}

function check(frames: AnyFrame[]): void {
  const commits = frames.filter(({ type }) => type === "commit");
  const drafts = frames.filter(({ type }) => type === "draft");
  assertEquals(commits.map(({ block }) => block), Array.from({ length: 16 }, (_, i) => i));
  assert(drafts.length < STEPS - 16 - 50, `${drafts.length} drafts were not coalesced`);
  const end = frames.at(-1);
  assertEquals(end?.type, "end");
  assertEquals(end?.text?.length, 240 * WIDE);
  assertEquals(commits.map(({ text }) => text).join(""), end?.text);
}

Deno.test("a socket that reads slowly loses drafts, never text, and holds no slot", async () => {
  await using server = openServer({ codec: wide, app: { socketBufferBytes: 100_000 } });
  using client = await rawClient(server, handshake);
  await client.write(textFrame(JSON.stringify({ type: "generate", id: "a", ...request })));
  await eventually(() => server.session.calls > 0, "it runs");
  await eventually(() => server.engine.load.running === 0, "it ends though nobody reads", 20_000);
  assertEquals(server.session.calls, STEPS);
  const bytes = await client.readAll((latest) => latest.includes('"tokens_per_second"'));
  check(Array.from(textsOf(bodyOf(bytes)), (text) => JSON.parse(text)));
});

Deno.test("an SSE client that reads slowly loses drafts, never text, and holds no slot", async () => {
  await using server = openServer({ codec: wide });
  const body = JSON.stringify({ ...request, stream: true });
  using client = await rawClient(
    server,
    httpRequest("POST /v1/generate HTTP/1.0", { // 1.0: the body comes plain and ends with the connection
      "content-type": "application/json",
      "content-length": String(body.length),
    }, body),
  );
  await eventually(() => server.session.calls > 0, "it runs");
  await eventually(() => server.engine.load.running === 0, "it ends though nobody reads", 20_000);
  const text = new TextDecoder().decode(bodyOf(await client.readAll(() => false)));
  check(text.trimEnd().split("\n\n").map((event) => JSON.parse(event.replace(/^data: /, ""))));
});

Deno.test("drainOf() lets writers wait until the buffer has drained, with one timer", async () => {
  const socket = { bufferedAmount: 0 };
  const drain = drainOf(socket, 10);
  await drain.drained();
  socket.bufferedAmount = 11;
  let resumed = 0;
  const waits = [drain.drained(), drain.drained()].map((wait) => wait.then(() => resumed++));
  await new Promise((resolve) => setTimeout(resolve, 50));
  assertEquals(resumed, 0);
  socket.bufferedAmount = 10;
  await Promise.all(waits);
  assertEquals(resumed, 2);
});

Deno.test("drainOf() keeps nobody waiting once it is closed", async () => {
  const drain = drainOf({ bufferedAmount: 99 }, 10);
  const wait = drain.drained();
  drain.close();
  await wait;
  await drain.drained();
});

Deno.test("a client that asks on and on and reads nothing is closed, and its slots are freed", async () => {
  const sockets = new Set<WebSocket>();
  await using server = openServer({
    delayMs: 20,
    app: { socketBufferBytes: 10_000, idleTimeout: 1, sockets },
  });
  using client = await rawClient(server, handshake);
  await client.write(textFrame(JSON.stringify({ type: "generate", id: "a", ...request })));
  const nonsense = new Uint8Array(await new Blob(Array(1000).fill(textFrame("{}"))).arrayBuffer());
  let open = true;
  for (let i = 0; i < 500 && open; i++) open = await client.write(nonsense);
  await eventually(() => sockets.size === 0, "the socket is gone");
  await eventually(() => server.engine.load.running === 0, "no slot is held");
});
