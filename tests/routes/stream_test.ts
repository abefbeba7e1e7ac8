import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { spellingScript } from "../support/scripted_session.ts";
import { eventually, openServer, openSocket } from "../support/serve.ts";

const long = { max_tokens: 400, denoising_steps: 8, unmasking: "low_confidence_static" };

Deno.test("a socket carries start, drafts, commits and end of a generation", async () => {
  await using server = openServer({ script: spellingScript("héllo 🙂 world", 3, 6) });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "hey", block_length: 8 });
  const frames = await socket.until("a");
  assertEquals(frames[0], {
    type: "start",
    id: "a",
    model: "scripted",
    prompt_tokens: 3,
    block_length: 8,
  });
  const draft = frames.find(({ type }) => type === "draft");
  assertEquals(draft?.tokens?.length, 8);
  assertEquals(draft?.tokens?.[0], ["h", "given", 1]);
  assert(
    draft?.tokens?.some(([text, state, sure]) => text === "" && state === "masked" && sure === 0),
  );
  const commits = frames.filter(({ type }) => type === "commit");
  assertEquals(commits.map(({ block }) => block), commits.map((_, i) => i));
  assertEquals(commits.map(({ text }) => text).join(""), "héllo 🙂 world");
  const end = frames.at(-1);
  assertEquals([end?.type, end?.text, end?.finish_reason], ["end", "héllo 🙂 world", "stop"]);
  assertEquals(end?.usage?.completion_tokens, 17);
});

Deno.test("one socket runs several generations at once, each as if alone", async () => {
  await using server = openServer({ delayMs: 1 });
  await using socket = await openSocket(server.url);
  const ids = ["a", "b", "c"];
  const ask = (id: string) => ({
    type: "generate",
    id,
    prompt: id,
    max_tokens: 40,
    seed: 1,
    temperature: 1,
  });
  for (const id of ids) socket.send(ask(id));
  const arrived: (string | undefined)[] = [];
  const texts = new Map<string | undefined, string>();
  while (texts.size < ids.length) {
    const frame = await socket.next();
    arrived.push(frame.id);
    if (frame.type === "end") texts.set(frame.id, frame.text ?? "");
  }
  assert(arrived.lastIndexOf("a") > arrived.indexOf("c"), "they took turns");
  for (const id of ids) {
    const alone = await server.engine.generate(id, { maxTokens: 40, seed: 1, temperature: 1 });
    assertEquals(texts.get(id), alone.text);
  }
});

Deno.test("a bad message gets an error frame; the socket and its other generations live on", async () => {
  await using server = openServer({ delayMs: 2, app: { maxRequestBytes: 5000 } });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "lives", prompt: "x", ...long });
  const cases: [message: unknown, param: string | undefined, fact: string, id?: string][] = [
    ["{", undefined, "not valid JSON"],
    ["", undefined, "not valid JSON"],
    ["null", undefined, "must be a JSON object"],
    ["[]", undefined, "must be a JSON object"],
    [new Uint8Array([123, 125]), undefined, "not binary"],
    [" ".repeat(5001), undefined, "at most 5000"],
    [{}, "type", "must be one of generate, cancel"],
    [{ type: "sing", id: "s" }, "type", "must be one of generate, cancel", "s"],
    [{ type: "generate", prompt: "x" }, "id", "is required"],
    [{ type: "generate", id: "", prompt: "x" }, "id", "1 to 64 characters"],
    [{ type: "generate", id: "i".repeat(65), prompt: "x" }, "id", "1 to 64 characters"],
    [{ type: "generate", id: 5, prompt: "x" }, "id", "must be a string"],
    [{ type: "generate", id: "n" }, "prompt", "is required", "n"],
    [{ type: "generate", id: "n", prompt: "" }, "prompt", "must not be empty", "n"],
    [{ type: "generate", id: "n", prompt: "x", top_k: 65 }, "top_k", "from 1 to 64", "n"],
    [{ type: "generate", id: "n", prompt: "x", max: 6 }, "max", "is not an option", "n"],
    [{ type: "generate", id: "n", prompt: "x", block_length: 5 }, "block_length", "1, 2, 4", "n"],
    [{ type: "generate", id: "n", prompt: "x", max_tokens: 600 }, "max_tokens", "512", "n"],
    [{ type: "generate", id: "n", prompt: "x", stream: false }, "stream", "always streams", "n"],
    [{ type: "cancel" }, "id", "is required"],
    [{ type: "cancel", id: "lives", prompt: "x" }, "prompt", "is not an option"],
  ];
  for (const [message, param, fact, id] of cases) {
    const plain = typeof message === "string" || message instanceof Uint8Array;
    socket.raw.send(plain ? message : JSON.stringify(message));
    let frame = await socket.next();
    while (frame.id === "lives") frame = await socket.next();
    assertEquals([frame.type, frame.param, frame.id], ["error", param, id]);
    assertStringIncludes(frame.message ?? "", fact);
  }
  assertEquals(server.engine.load.running, 1);
  const frames = await socket.until("lives");
  assertEquals(frames.at(-1)?.type, "end");
});

Deno.test("an id that is running already is refused without that id, and free again after the end", async () => {
  await using server = openServer({ delayMs: 1 });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "x", max_tokens: 30 });
  socket.send({ type: "generate", id: "a", prompt: "y", max_tokens: 30 });
  let refusal = await socket.next();
  while (refusal.type !== "error") refusal = await socket.next();
  assertEquals([refusal.id, refusal.param, refusal.code], [undefined, "id", "invalid_request"]);
  assertStringIncludes(refusal.message ?? "", "a is running already");
  assertEquals((await socket.until("a")).at(-1)?.type, "end");
  socket.send({ type: "generate", id: "a", prompt: "y", max_tokens: 30 });
  assertEquals((await socket.until("a")).at(-1)?.type, "end");
});

Deno.test("cancel ends one generation with one last frame, within one forward pass", async () => {
  await using server = openServer({ delayMs: 10, batch: 1, slots: 4 });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "x", ...long });
  while ((await socket.next()).type !== "draft");
  socket.send({ type: "generate", id: "b", prompt: "y", max_tokens: 20 });
  socket.send({ type: "cancel", id: "a" });
  const frames = await socket.until("a");
  const calls = server.session.calls;
  assertEquals(frames.at(-1), {
    type: "error",
    id: "a",
    code: "cancelled",
    message: "the generation was cancelled",
  });
  await eventually(() => server.engine.load.running <= 1, "a's slot is free");
  assert(server.session.calls <= calls + 1, `${server.session.calls - calls} passes`);
  socket.send({ type: "cancel", id: "a" }); // twice, and for what never ran: nothing happens
  socket.send({ type: "cancel", id: "never" });
  const rest = await socket.until("b");
  assertEquals(rest.at(-1)?.type, "end");
  socket.send({ type: "nothing" });
  assertEquals((await socket.next()).param, "type"); // no other frame came between
  assertEquals(server.session.liveSlots(), []);
});

Deno.test("a generation that waits for a slot can be cancelled too", async () => {
  await using server = openServer({ delayMs: 2, slots: 1 });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "x", ...long });
  socket.send({ type: "generate", id: "b", prompt: "y", ...long });
  await eventually(() => server.engine.load.waiting === 1, "b waits");
  socket.send({ type: "cancel", id: "b" });
  assertEquals((await socket.until("b")).map(({ type }) => type), ["start", "error"]);
  await eventually(() => server.engine.load.waiting === 0, "nobody waits");
  assertEquals(server.engine.load.running, 1);
});

Deno.test("a socket runs so many generations at once and no more", async () => {
  await using server = openServer({ delayMs: 1, app: { generationsPerSocket: 2 } });
  await using socket = await openSocket(server.url);
  for (const id of ["a", "b", "c"]) {
    socket.send({ type: "generate", id, prompt: id, max_tokens: 20 });
  }
  const [refusal] = await socket.until("c");
  assertEquals([refusal.type, refusal.code], ["error", "queue_full"]);
  await Promise.all([socket.until("a"), socket.until("b")]);
  socket.send({ type: "generate", id: "c", prompt: "c", max_tokens: 20 });
  assertEquals((await socket.until("c")).at(-1)?.type, "end");
});

Deno.test("a full engine refuses with an error frame", async () => {
  await using server = openServer({ delayMs: 2, slots: 1, waiting: 0 });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "x", ...long });
  await eventually(() => server.engine.load.running === 1, "a runs");
  socket.send({ type: "generate", id: "b", prompt: "y" });
  const [refusal] = await socket.until("b");
  assertEquals([refusal.id, refusal.code], ["b", "queue_full"]);
});

Deno.test("a client that disconnects frees its slots within one forward pass", async () => {
  await using server = openServer({ delayMs: 20 });
  const socket = await openSocket(server.url);
  for (const id of ["a", "b"]) socket.send({ type: "generate", id, prompt: id, ...long });
  await eventually(() => server.engine.load.running === 2, "both run");
  socket.raw.close();
  await socket.closed;
  const calls = server.session.calls;
  await eventually(() => server.engine.load.running === 0, "no slot is held");
  assert(server.session.calls <= calls + 2);
  assertEquals(server.session.liveSlots(), []);
});

Deno.test("a failing model ends the generation with an error frame and is logged", async () => {
  const faults: string[] = [];
  await using server = openServer({
    script: () => {
      throw new Error("out of memory");
    },
    app: { onFault: (error) => faults.push(String(error)) },
  });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "x" });
  const frames = await socket.until("a");
  assertEquals([frames.at(-1)?.code, frames.at(-1)?.id], ["internal", "a"]);
  assertEquals(faults, ["Error: out of memory"]);
});

Deno.test("a stopping server lets generations finish, refuses new ones, then closes with 1001", async () => {
  const stop = new AbortController();
  await using server = openServer({ delayMs: 5, app: { stopping: stop.signal } });
  const idle = await openSocket(server.url);
  const busy = await openSocket(server.url);
  busy.send({ type: "generate", id: "a", prompt: "x", max_tokens: 30 });
  await eventually(() => server.engine.load.running === 1, "a runs");
  stop.abort();
  busy.send({ type: "generate", id: "b", prompt: "x" });
  assertEquals((await idle.closed).code, 1001);
  const [refusal] = await busy.until("b");
  assertEquals([refusal.type, refusal.code], ["error", "engine_closed"]);
  assertEquals((await busy.until("a")).at(-1)?.type, "end");
  assertEquals((await busy.closed).code, 1001);
});

Deno.test("closing the engine ends what runs with engine_closed", async () => {
  await using server = openServer({ delayMs: 5 });
  await using socket = await openSocket(server.url);
  socket.send({ type: "generate", id: "a", prompt: "x", ...long });
  await eventually(() => server.engine.load.running === 1, "a runs");
  await server.engine.close();
  assertEquals((await socket.until("a")).at(-1)?.code, "engine_closed");
});

Deno.test("pages of other origins cannot open a socket unless cors lists them", async () => {
  await using server = openServer({ app: { cors: ["https://friend.example"] } });
  const connect = async (origin: string | undefined) => {
    const handshake = {
      connection: "upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      host: `127.0.0.1:${server.port}`,
      ...origin === undefined ? {} : { origin },
    };
    using connection = await Deno.connect({ port: server.port });
    const lines = Object.entries(handshake).map(([name, value]) => `${name}: ${value}\r\n`);
    await connection.write(
      new TextEncoder().encode(`GET /v1/stream HTTP/1.1\r\n${lines.join("")}\r\n`),
    );
    const answer = new Uint8Array(1000);
    const count = await connection.read(answer);
    return Number(new TextDecoder().decode(answer.subarray(0, count ?? 0)).split(" ")[1]);
  };
  assertEquals(await connect(undefined), 101); // not a browser
  assertEquals(await connect(server.url), 101); // the server's own page
  assertEquals(await connect("https://friend.example"), 101);
  assertEquals(await connect("https://foe.example"), 403);
  assertEquals(await connect("null"), 403);
});
