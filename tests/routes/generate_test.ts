import { assert, assertEquals, assertMatch } from "@std/assert";
import { createApp } from "../../routes/mod.ts";
import { spellingScript } from "../support/scripted_session.ts";
import { openEngine, post, readEvents } from "../support/serve.ts";

const round = (value: unknown) => typeof value === "number" && value >= 0;

Deno.test("POST /v1/generate answers with the text, why it ended, usage and timings", async () => {
  await using test = openEngine();
  const response = await createApp(test.engine).request(
    "/v1/generate",
    post({ prompt: "hello", max_tokens: 20, seed: 7 }),
  );
  assertEquals(response.status, 200);
  const answer = await response.json();
  assertEquals(Object.keys(answer), ["id", "model", "text", "finish_reason", "usage", "timings"]);
  assertMatch(answer.id, /^gen-/);
  assertEquals(answer.model, "scripted");
  assertEquals(answer.text.length, 20);
  assertEquals(answer.finish_reason, "length");
  const { forward_passes, ...usage } = answer.usage;
  assertEquals(usage, { prompt_tokens: 5, completion_tokens: 20 });
  assertEquals(forward_passes, test.session.calls);
  assertEquals(Object.keys(answer.timings), [
    "queue_ms",
    "prefill_ms",
    "first_frame_ms",
    "total_ms",
    "tokens_per_second",
  ]);
  assert(Object.values(answer.timings).every(round));
});

Deno.test("POST /v1/generate passes every option on to the engine", async () => {
  await using test = openEngine({ manifest: { infill: true } });
  const app = createApp(test.engine);
  const options = {
    prompt: "a",
    suffix: "b",
    max_tokens: 24,
    temperature: 1.5,
    top_k: 20,
    top_p: 0.95,
    seed: 3,
    stop: ["zzz"],
    block_length: 4,
    unmasking: "low_confidence_static",
    confidence_threshold: 0.5,
    entropy_bound: 0.3,
    denoising_steps: 2,
  };
  const answer = await (await app.request("/v1/generate", post(options))).json();
  const { text } = await test.engine.generate("a", {
    suffix: "b",
    maxTokens: 24,
    temperature: 1.5,
    topK: 20,
    topP: 0.95,
    seed: 3,
    stop: ["zzz"],
    blockLength: 4,
    unmasking: "low_confidence_static",
    confidenceThreshold: 0.5,
    entropyBound: 0.3,
    denoisingSteps: 2,
  });
  assertEquals(answer.text, text);
});

Deno.test("POST /v1/generate takes one stop string or several", async () => {
  await using test = openEngine({ script: spellingScript("one two three", 1) });
  const app = createApp(test.engine);
  for (const stop of [" two", ["three", " two"]]) {
    const answer = await (await app.request("/v1/generate", post({ prompt: "x", stop }))).json();
    assertEquals([answer.text, answer.finish_reason], ["one", "stop"]);
  }
});

Deno.test("POST /v1/generate keeps special-token text and emoji as text", async () => {
  await using test = openEngine();
  const app = createApp(test.engine);
  for (const prompt of ["<|mask|> <|endoftext|> <eos>", "🙂👩‍👩‍👧 ünï\u0000", "\ud800 alone"]) {
    const response = await app.request("/v1/generate", post({ prompt, max_tokens: 4 }));
    assertEquals(response.status, 200);
    const { usage } = await response.json();
    assertEquals(usage.prompt_tokens, new TextEncoder().encode(prompt).length);
  }
});

Deno.test("POST /v1/generate with stream answers start, drafts, commits and end as events", async () => {
  await using test = openEngine({ script: spellingScript("héllo 🙂 world, it works", 3, 6) });
  const response = await createApp(test.engine).request(
    "/v1/generate",
    post({ prompt: "hey", stream: true, block_length: 8 }),
  );
  assertEquals(response.status, 200);
  assertMatch(response.headers.get("content-type") ?? "", /^text\/event-stream/);
  assertMatch(response.headers.get("cache-control") ?? "", /no-transform/);
  const frames = await Array.fromAsync(readEvents(response));
  const [start] = frames;
  assertEquals(Object.entries(start).filter(([name]) => name !== "id"), [
    ["type", "start"],
    ["model", "scripted"],
    ["prompt_tokens", 3],
    ["block_length", 8],
  ]);
  assert(frames.every(({ id }) => id === start.id));
  const draft = frames.find(({ type }) => type === "draft");
  if (draft?.tokens === undefined) throw new Error("no draft");
  assertEquals(Object.keys(draft), ["type", "id", "block", "step", "tokens", "text"]);
  assertEquals(draft.tokens.slice(0, 3), [["h", "given", 1], ["e", "given", 1], ["y", "given", 1]]);
  assertEquals(
    new Set(draft.tokens.map(([, state]) => state)),
    new Set(["given", "masked", "unmasked"]),
  );
  const commits = frames.filter(({ type }) => type === "commit");
  assertEquals(Object.keys(commits[0]), ["type", "id", "block", "text", "tokens"]);
  assertEquals(commits.map(({ text }) => text).join(""), "héllo 🙂 world, it works");
  const end = frames.at(-1);
  assertEquals(end?.type, "end");
  assertEquals([end?.text, end?.finish_reason], ["héllo 🙂 world, it works", "stop"]);
  assertEquals(frames.filter(({ type }) => type === "end").length, 1);
});

Deno.test("a committed text never tears a character, even one cut by max_tokens", async () => {
  await using test = openEngine({ script: spellingScript("🙂🙂🙂🙂🙂🙂", 1) });
  const app = createApp(test.engine);
  const request = post({ prompt: "x", stream: true, block_length: 2, max_tokens: 10 });
  const frames = await Array.fromAsync(readEvents(await app.request("/v1/generate", request)));
  const commits = frames.filter(({ type }) => type === "commit").map(({ text }) => text);
  assertEquals(commits.join(""), "🙂🙂\ufffd"); // ten bytes: two whole characters, and half of one at the very end
  assertEquals(commits.slice(0, -1).join(""), "🙂🙂");
  assertEquals(frames.at(-1)?.text, commits.join(""));
});

Deno.test("POST /v1/generate with stream rejects with a status and JSON, not with an event", async () => {
  await using test = openEngine();
  const response = await createApp(test.engine).request(
    "/v1/generate",
    post({ prompt: "", stream: true }),
  );
  assertEquals(response.status, 400);
  assertEquals((await response.json()).error.param, "prompt");
});

Deno.test("what fails under way is a 500 in JSON and a last error event in a stream, and is logged", async () => {
  const faults: unknown[] = [];
  await using test = openEngine({
    script: () => {
      throw new Error("the secret of the machine");
    },
  });
  const app = createApp(test.engine, { onFault: (error) => faults.push(error) });
  const response = await app.request("/v1/generate", post({ prompt: "x" }));
  assertEquals(response.status, 500);
  const { error } = await response.json();
  assertEquals([error.code, error.param], ["internal", null]);
  assert(!error.message.includes("secret"));
  const events = await Array.fromAsync(
    readEvents(await app.request("/v1/generate", post({ prompt: "x", stream: true }))),
  );
  assertEquals(events.map(({ type }) => type), ["start", "error"]);
  assertEquals(events[1].code, "internal");
  assertEquals(faults.map(String), Array(2).fill("Error: the secret of the machine"));
});
