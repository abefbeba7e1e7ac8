import { assert, assertEquals } from "@std/assert";
import { createApp } from "../../routes/mod.ts";
import { EngineError } from "../../src/errors.ts";
import { errorResponse, wireError } from "../../routes/errors.ts";
import { openEngine, post } from "../support/serve.ts";

/** Sends bodies, returns `[status, code, param, message]`. */
async function refused(
  request: RequestInit,
  path = "/v1/generate",
): Promise<[number, string, string | null, string]> {
  await using test = openEngine({ manifest: { contextLength: 64 } });
  const response = await createApp(test.engine).request(path, request);
  const body = await response.json();
  assertEquals(Object.keys(body), ["error"]);
  assertEquals(Object.keys(body.error), ["code", "message", "param"]);
  assertEquals(test.session.calls, 0);
  return [response.status, body.error.code, body.error.param, body.error.message];
}

const wrong: [name: string, body: unknown, param: string, fact: string][] = [
  ["an unknown key", { top_kk: 3 }, "top_kk", "is not an option; the options are prompt, suffix"],
  ["a camelCase key", { maxTokens: 3 }, "maxTokens", "is not an option"],
  ["an inherited name", JSON.parse('{"__proto__": 1}'), "__proto__", "is not an option"],
  ["a missing prompt", { prompt: undefined }, "prompt", "is required"],
  ["an empty prompt", { prompt: "" }, "prompt", "must not be empty"],
  ["a prompt that is no text", { prompt: 7 }, "prompt", "must be a string"],
  ["a null", { temperature: null }, "temperature", "must be a number"],
  ["a number as text", { max_tokens: "12" }, "max_tokens", "must be a number"],
  ["half a token", { max_tokens: 1.5 }, "max_tokens", "must be a whole number"],
  ["no tokens", { max_tokens: 0 }, "max_tokens", "must be from 1 to"],
  ["a high temperature", { temperature: 2.1 }, "temperature", "must be from 0 to 2"],
  ["a negative temperature", { temperature: -1 }, "temperature", "must be from 0 to 2"],
  ["top_k out of range", { top_k: 0 }, "top_k", "must be from 1 to 64"],
  ["top_p out of range", { top_p: 1.01 }, "top_p", "must be from 0 to 1"],
  ["a negative seed", { seed: -1 }, "seed", "must be from 0 to 4294967295"],
  ["too many stops", { stop: ["a", "b", "c", "d", "e"] }, "stop", "up to 4 strings"],
  ["an empty stop", { stop: [""] }, "stop", "must hold no empty string"],
  ["a stop that is no text", { stop: 5 }, "stop", "must be a string or up to 4 strings"],
  ["an untrained block length", { block_length: 3 }, "block_length", "1, 2, 4, 8, 16, 32"],
  [
    "an unknown strategy",
    { unmasking: "magic" },
    "unmasking",
    "must be one of low_confidence_dynamic",
  ],
  ["a threshold", { confidence_threshold: 2 }, "confidence_threshold", "must be from 0 to 1"],
  ["no steps", { denoising_steps: 0 }, "denoising_steps", "must be from 1 to 4096"],
  ["a stream that is no boolean", { stream: "yes" }, "stream", "must be true or false"],
  ["a suffix where the model cannot", { suffix: "x" }, "suffix", "not trained to fill in"],
];

for (const [name, body, param, fact] of wrong) {
  Deno.test(`POST /v1/generate names the field of ${name}`, async () => {
    const whole = Object.assign(Object.create(null), { prompt: "hi" });
    for (const [key, value] of Object.entries(body as object)) { // own keys, also "__proto__"
      Object.defineProperty(whole, key, { value, enumerable: true });
    }
    const [status, code, at, message] = await refused(post(whole));
    assertEquals([status, code, at], [400, "invalid_request", param]);
    assert(message.startsWith(`${param}: `) && message.includes(fact), message);
  });
}

Deno.test("POST /v1/generate refuses what does not fit the context, in wire names", async () => {
  const [status, code, param, message] = await refused(post({ prompt: "hi", max_tokens: 63 }));
  assertEquals([status, code, param], [400, "context_exceeded", "max_tokens"]);
  assert(message.includes("max_tokens is 63") && message.includes("64"), message);
  const long = await refused(post({ prompt: "x".repeat(64) }));
  assertEquals(long.slice(0, 3), [400, "context_exceeded", "prompt"]);
});

Deno.test("POST /v1/generate refuses what is not a JSON object, with no field to name", async () => {
  for (const body of ["", "{", "nonsense", "{'a': 1}", "[]", "null", "3", '"text"', "[[1]]"]) {
    const request = { ...post(0), body };
    const [status, code, param] = await refused(request);
    assertEquals([body, status, code, param], [body, 400, "invalid_request", null]);
  }
});

Deno.test("POST /v1/generate wants the content type of JSON, with or without a charset", async () => {
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]) {
    const [status, code, , message] = await refused(
      post({ prompt: "hi" }, { "content-type": type }),
    );
    assertEquals([status, code], [415, "unsupported_media_type"]);
    assert(message.includes("application/json"));
  }
  await using test = openEngine();
  const request = post({ prompt: "hi", max_tokens: 1 }, {
    "content-type": "Application/JSON; charset=utf-8",
  });
  const response = await createApp(test.engine).request("/v1/generate", request);
  assertEquals([response.status, (await response.json()).text.length], [200, 1]);
});

Deno.test("POST /v1/generate answers 413 to a body over the limit", async () => {
  const [status, code, param, message] = await refused(post({ prompt: "x".repeat(1 << 20) }));
  assertEquals([status, code, param], [413, "payload_too_large", null]);
  assert(message.includes("1048576"));
});

Deno.test("unknown paths and methods answer 404 and 405 in JSON", async () => {
  assertEquals((await refused({}, "/v1/nothing")).slice(0, 2), [404, "not_found"]);
  assertEquals((await refused({}, "/nothing/at/all")).slice(0, 2), [404, "not_found"]);
  assertEquals((await refused({}, "/v1/generate")).slice(0, 2), [405, "method_not_allowed"]);
  assertEquals((await refused({ method: "DELETE" }, "/healthz")).slice(0, 2), [
    405,
    "method_not_allowed",
  ]);
  await using test = openEngine();
  const response = await createApp(test.engine).request("/v1/generate", { method: "PUT" });
  assertEquals([response.headers.get("allow"), response.status], ["POST", 405]);
  await response.body?.cancel();
});

Deno.test("GET /v1/stream without an upgrade answers 426, and with half of one 400", async () => {
  const [status, code] = await refused({}, "/v1/stream");
  assertEquals([status, code], [426, "upgrade_required"]);
  const half = await refused({ headers: { upgrade: "websocket" } }, "/v1/stream");
  assertEquals(half.slice(0, 2), [400, "invalid_request"]);
});

Deno.test("a full queue answers 503 with Retry-After", async () => {
  await using test = openEngine({ slots: 1, waiting: 0, delayMs: 5 });
  const app = createApp(test.engine);
  const first = app.request("/v1/generate", post({ prompt: "hi", max_tokens: 8 }));
  await new Promise((resolve) => setTimeout(resolve, 3));
  const second = await app.request("/v1/generate", post({ prompt: "hi" }));
  assertEquals([second.status, second.headers.get("retry-after")], [503, "1"]);
  assertEquals((await second.json()).error.code, "queue_full");
  assertEquals((await first).status, 200);
});

Deno.test("a closed engine and a stopping server answer 503", async () => {
  const test = openEngine();
  const stop = new AbortController();
  const app = createApp(test.engine, { stopping: stop.signal });
  stop.abort();
  const stopping = await app.request("/v1/generate", post({ prompt: "hi" }));
  assertEquals([stopping.status, (await stopping.json()).error.code], [503, "engine_closed"]);
  await test.engine.close();
  const closed = await createApp(test.engine).request("/v1/generate", post({ prompt: "hi" }));
  assertEquals([closed.status, (await closed.json()).error.code], [503, "engine_closed"]);
});

Deno.test("wireError() renames the engine's options in the message and in the param", () => {
  const error = new EngineError("context_exceeded", "maxTokens is 9, topP: x, remaxTokens", {
    param: "maxTokens",
  });
  assertEquals(wireError(error), {
    code: "context_exceeded",
    message: "max_tokens is 9, top_p: x, remaxTokens",
    param: "max_tokens",
  });
});

Deno.test("errorResponse() gives every engine code a status", () => {
  const statuses = (["cancelled", "backend_failed", "backend_unavailable"] as const)
    .map((code) => errorResponse({ code, message: "", param: null }).status);
  assertEquals(statuses, [499, 500, 503]);
});
