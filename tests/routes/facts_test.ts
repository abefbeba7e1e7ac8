import { assert, assertEquals, assertMatch } from "@std/assert";
import { Hono } from "hono";
import { createApp } from "../../routes/mod.ts";
import { openEngine, post, readEvents } from "../support/serve.ts";

Deno.test("GET /v1/models lists the model in OpenAI's shape, with what a client needs to know", async () => {
  await using test = openEngine({ manifest: { infill: true } });
  const response = await createApp(test.engine).request("/v1/models");
  const { created, ...model } = (await response.json()).data[0];
  assert(Math.abs(created - Date.now() / 1000) < 60);
  assertEquals(model, {
    id: "scripted",
    object: "model",
    owned_by: "cinnabar",
    context_length: 512,
    vocabulary_size: 272,
    block_length: 8,
    block_lengths: [1, 2, 4, 8, 16, 32],
    defaults: {},
    dtype: "fp32",
    backend: "wasm",
    device: "a script",
    infill: true,
    sample_prompts: ["Once upon a time"],
  });
});

Deno.test("GET /v1/models tells of a model that knows no blocks, and how it is decoded by default", async () => {
  await using test = openEngine({
    manifest: {
      blockLength: { default: "canvas" },
      facts: {
        attention: "bidirectional",
        cache: "none",
        defaults: { unmasking: "entropy", confidenceOf: "sampling" },
      },
    },
  });
  const response = await createApp(test.engine).request("/v1/models");
  const { block_length, block_lengths, defaults } = (await response.json()).data[0];
  assertEquals([block_length, block_lengths], ["canvas", null]);
  assertEquals(defaults, { unmasking: "entropy", confidence_of: "sampling" });
});

Deno.test("GET /healthz is ok whatever happens; GET /readyz says why it is not ready", async () => {
  const test = openEngine({ slots: 3 });
  const stop = new AbortController();
  const app = createApp(test.engine, { stopping: stop.signal });
  const facts = { model: "scripted", backend: "wasm", running: 0, waiting: 0, free: 3 };
  const ask = async (path: string) => {
    const response = await app.request(path);
    return [response.status, await response.json()];
  };
  assertEquals(await ask("/readyz"), [200, { status: "ready", ...facts }]);
  stop.abort();
  assertEquals(await ask("/readyz"), [503, { status: "stopping", ...facts }]);
  await test.engine.close();
  assertEquals(await ask("/readyz"), [503, { status: "closed", ...facts }]);
  assertEquals(await ask("/healthz"), [200, { status: "ok" }]);
});

Deno.test("an app mounted below a prefix serves everything there, and the outer app keeps its own paths", async () => {
  await using test = openEngine();
  const app = new Hono().route("/lm", createApp(test.engine));
  app.get("/", (c) => c.text("mine"));
  app.notFound((c) => c.text("not mine", 404));
  assertEquals(await (await app.request("/")).text(), "mine");
  assertEquals(await (await app.request("/nothing")).text(), "not mine");
  assertEquals((await app.request("/lm/healthz")).status, 200);
  assertEquals((await (await app.request("/lm/v1/models")).json()).object, "list");
  const answer = await app.request("/lm/v1/generate", post({ prompt: "x", max_tokens: 3 }));
  assertEquals((await answer.json()).text.length, 3);
  const stream = await app.request(
    "/lm/v1/generate",
    post({ prompt: "x", max_tokens: 3, stream: true }),
  );
  assertEquals((await Array.fromAsync(readEvents(stream))).at(-1)?.type, "end");
  const refused = await app.request("/lm/v1/generate", post({ prompt: "" }));
  assertEquals([refused.status, (await refused.json()).error.param], [400, "prompt"]);
  assertEquals((await (await app.request("/lm/v1/x")).json()).error.code, "not_found");
  assertEquals((await app.request("/lm/v1/stream")).status, 426);
});

Deno.test("other sites' pages may call only where cors lists them", async () => {
  await using test = openEngine();
  const headers = { origin: "https://friend.example" };
  const allowed = async (cors: string[] | undefined, path = "/v1/models") => {
    const response = await createApp(test.engine, { cors }).request(path, { headers });
    await response.body?.cancel();
    return response.headers.get("access-control-allow-origin");
  };
  assertEquals(await allowed(undefined), null);
  assertEquals(await allowed(["https://foe.example"]), null);
  assertEquals(await allowed(["https://foe.example", "https://friend.example"]), headers.origin);
  assertEquals(await allowed(["*"]), "*");
  assertEquals(await allowed(["*"], "/healthz"), "*");

  const app = createApp(test.engine, { cors: ["https://friend.example"] });
  const preflight = await app.request("/v1/generate", {
    method: "OPTIONS",
    headers: {
      ...headers,
      "access-control-request-method": "POST",
      "access-control-request-headers": "content-type",
    },
  });
  assertEquals(preflight.status, 204);
  assertMatch(preflight.headers.get("access-control-allow-methods") ?? "", /POST/);
  assertEquals(preflight.headers.get("access-control-allow-headers"), "content-type");
  const answer = await app.request("/v1/generate", post({ prompt: "x", max_tokens: 2 }, headers));
  assertEquals(answer.headers.get("access-control-allow-origin"), headers.origin);
  const refused = await app.request("/v1/generate", post({ prompt: "" }, headers));
  assertEquals(refused.status, 400);
  assertEquals(refused.headers.get("access-control-allow-origin"), headers.origin);
});
