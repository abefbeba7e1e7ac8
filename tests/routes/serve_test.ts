import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { probe, serve } from "../../routes/serve.ts";
import { byteTokenizer } from "../support/byte_tokenizer.ts";
import { eventually, openEngine, openSocket, post } from "../support/serve.ts";

const long = { max_tokens: 400, denoising_steps: 8, unmasking: "low_confidence_static" };

Deno.test("stop() lets what runs finish, refuses what is new, and closes the engine", async () => {
  const { engine } = openEngine({ delayMs: 5 });
  const server = serve(engine, { host: "127.0.0.1", port: 0 });
  const socket = await openSocket(server.url.slice(0, -1));
  socket.send({ type: "generate", id: "a", prompt: "x", max_tokens: 30 });
  const whole = fetch(`${server.url}v1/generate`, post({ prompt: "y", max_tokens: 30 }));
  await eventually(() => engine.load.running === 2, "both run");
  const stopped = server.stop();
  assertEquals(server.stop(), stopped);
  const refused = await fetch(`${server.url}v1/generate`, post({ prompt: "z" }));
  assertEquals([refused.status, (await refused.json()).error.code], [503, "engine_closed"]);
  assertEquals((await (await fetch(`${server.url}readyz`)).json()).status, "stopping");
  assertEquals((await (await whole).json()).text.length, 30);
  assertEquals((await socket.until("a")).at(-1)?.type, "end");
  assertEquals((await socket.closed).code, 1001);
  await stopped;
  assert(engine.closed);
  await assertRejects(() => fetch(`${server.url}healthz`));
});

Deno.test("stop() ends what still runs after the time of grace", async () => {
  const { engine } = openEngine({ delayMs: 10 });
  const server = serve(engine, { host: "127.0.0.1", port: 0, graceMs: 50 });
  const socket = await openSocket(server.url.slice(0, -1));
  socket.send({ type: "generate", id: "a", prompt: "x", ...long });
  const whole = fetch(`${server.url}v1/generate`, post({ prompt: "y", ...long }));
  await eventually(() => engine.load.running === 2, "both run");
  const start = performance.now();
  await server.stop();
  assert(performance.now() - start < 1500, "it took its time");
  const response = await whole;
  assertEquals([response.status, (await response.json()).error.code], [503, "engine_closed"]);
  assertEquals((await socket.until("a")).at(-1)?.code, "engine_closed");
  await socket.closed;
});

Deno.test("stop() does not wait for a client that does not read", async () => {
  const codec = byteTokenizer();
  const stream = () => ({
    push: (ids: readonly number[]) => ids.map(() => "x".repeat(20_000)),
    flush: () => "",
  });
  const { engine } = openEngine({ delayMs: 1, codec: { ...codec, stream } });
  const server = serve(engine, { host: "127.0.0.1", port: 0, graceMs: 1000 });
  const { body } = await fetch(
    `${server.url}v1/generate`,
    post({ prompt: "y", ...long, stream: true }),
  );
  await eventually(() => engine.load.running === 1, "it runs");
  const start = performance.now();
  await server.stop();
  assert(performance.now() - start < 3000, "it took its time");
  await body?.cancel(); // what is left ends with its client
  await assertRejects(() => fetch(`${server.url}healthz`));
});

Deno.test("probe() and serve() say that a port is taken", async () => {
  const { engine } = openEngine();
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr;
  const fact = `cannot listen on 127.0.0.1:${port}: the port is taken`;
  assertThrows(() => probe({ host: "127.0.0.1", port }), Error, fact);
  assertThrows(() => serve(engine, { host: "127.0.0.1", port }), Error, fact);
  probe({ host: "127.0.0.1", port: 0 });
  await engine.close();
});
