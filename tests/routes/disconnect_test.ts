import { assert, assertEquals } from "@std/assert";
import { eventually, openServer, post, readEvents } from "../support/serve.ts";

const long = { // 400 passes and more
  prompt: "x",
  max_tokens: 400,
  denoising_steps: 8,
  unmasking: "low_confidence_static",
};

Deno.test("an SSE client that leaves frees its slot within one forward pass", async () => {
  await using server = openServer({ delayMs: 20 });
  const leave = new AbortController();
  const response = await fetch(`${server.url}/v1/generate`, {
    ...post({ ...long, stream: true }),
    signal: leave.signal,
  });
  const events = readEvents(response);
  while ((await events.next()).value?.type !== "draft");
  leave.abort();
  await events.return(undefined).catch(() => {}); // the abort is what it throws
  const calls = server.session.calls;
  await eventually(() => server.engine.load.running === 0, "no slot is held");
  assert(server.session.calls <= calls + 2, `${server.session.calls - calls} more passes`);
  assertEquals(server.session.liveSlots(), []);
});

Deno.test("an SSE client that leaves while it waits for a slot leaves the queue", async () => {
  await using server = openServer({ delayMs: 5, slots: 1 });
  const first = await fetch(`${server.url}/v1/generate`, post({ ...long, stream: true }));
  const second = await fetch(`${server.url}/v1/generate`, post({ ...long, stream: true }));
  await eventually(() => server.engine.load.waiting === 1, "the second waits");
  await second.body?.cancel();
  await eventually(() => server.engine.load.waiting === 0, "nobody waits");
  assertEquals(server.engine.load.running, 1);
  await first.body?.cancel();
});

Deno.test("a one-shot client that leaves frees its slot, whether the body was chunked or not", async () => {
  for (const chunked of [false, true]) {
    await using server = openServer({ delayMs: 20 });
    const leave = new AbortController();
    const request = post(long);
    const body = chunked ? new Blob([String(request.body)]).stream() : request.body;
    const response = fetch(`${server.url}/v1/generate`, { ...request, body, signal: leave.signal });
    const left = response.then(() => "answered", (error: Error) => error.name);
    await eventually(() => server.session.calls > 2, "it runs");
    leave.abort();
    assertEquals(await left, "AbortError");
    const calls = server.session.calls;
    await eventually(() => server.engine.load.running === 0, "no slot is held");
    assert(server.session.calls <= calls + 2, `${server.session.calls - calls} more passes`);
    assertEquals(server.session.liveSlots(), []);
  }
});

Deno.test("a body over the limit gets 413 on a real port, also without a content-length", async () => {
  await using server = openServer({ app: { maxRequestBytes: 1000 } });
  const request = post({ prompt: "x".repeat(100_000) });
  for (const body of [request.body, new Blob([String(request.body)]).stream()]) {
    const response = await fetch(`${server.url}/v1/generate`, { ...request, body });
    assertEquals([response.status, (await response.json()).error.code], [413, "payload_too_large"]);
  }
});

Deno.test("a client that leaves in the middle of its body is no fault of the server", async () => {
  const faults: unknown[] = [];
  await using server = openServer({ app: { onFault: (error) => faults.push(error) } });
  for (const length of ["content-length: 100", "transfer-encoding: chunked"]) {
    const connection = await Deno.connect({ port: server.port });
    const head =
      `POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${length}`;
    await connection.write(new TextEncoder().encode(`${head}\r\n\r\n5\r\n{"pro`));
    await new Promise((resolve) => setTimeout(resolve, 30));
    connection.close();
  }
  const health = await fetch(`${server.url}/healthz`);
  assertEquals(await health.json(), { status: "ok" });
  await new Promise((resolve) => setTimeout(resolve, 30));
  assertEquals(faults, []);
});

Deno.test("a socket whose client is dead is closed by the ping, and its slots are freed", async () => {
  await using server = openServer({ delayMs: 20, app: { idleTimeout: 1 } });
  using connection = await Deno.connect({ port: server.port }); // it will answer no ping
  const message = JSON.stringify({ type: "generate", id: "a", ...long });
  await connection.write(
    new TextEncoder().encode(
      "GET /v1/stream HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n" +
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ),
  );
  const head = [0x81, 0x80 | 126, message.length >> 8, message.length & 255, 0, 0, 0, 0];
  await connection.write(Uint8Array.from([...head, ...new TextEncoder().encode(message)]));
  await eventually(() => server.engine.load.running === 1, "it runs");
  await eventually(() => server.engine.load.running === 0, "it was freed", 5000);
  assert(server.session.calls < 300, "long before its end");
});
