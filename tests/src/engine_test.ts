import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Engine } from "../../src/engine.ts";
import { EngineError } from "../../src/errors.ts";
import type { CommitFrame, DraftFrame, EndFrame, Frame } from "../../src/frame.ts";
import { UNMASKING } from "../../src/decoding.ts";
import type { Manifest } from "../../src/manifest.ts";
import { type GenerateOptions, resolveOptions } from "../../src/options.ts";
import { byteTokenizer } from "../support/byte_tokenizer.ts";
import { decodeNaively } from "../support/oracle.ts";
import {
  hashedScript,
  SCRIPTED_VOCABULARY,
  scriptedManifest,
  scriptedSession,
  spellingScript,
} from "../support/scripted_session.ts";

const manifest = scriptedManifest({ bos: 6 });
const script = hashedScript(SCRIPTED_VOCABULARY, 0.02);
const { mask, eos } = manifest.tokens;

function openEngine(options: { delayMs?: number; slots?: number; waiting?: number } = {}) {
  const session = scriptedSession({ script, delayMs: options.delayMs });
  return { session, engine: new Engine(manifest, byteTokenizer(), session, options) };
}

async function collect(frames: AsyncIterable<Frame>): Promise<Frame[]> {
  const all: Frame[] = [];
  for await (const frame of frames) all.push(frame);
  return all;
}

/** Output ids of a finished generation, read off its commit frames. */
function outputIds(frames: readonly Frame[]): number[] {
  return frames.filter((f): f is CommitFrame => f.type === "commit")
    .flatMap((f) => f.tokens.filter((t) => t.state === "unmasked").map((t) => t.id));
}

const promptOf = (length: number, seed = 1) =>
  Array.from({ length }, (_, i) => 16 + ((i * 37 + seed * 101) % 200));

function resolve(prompt: readonly number[], options: GenerateOptions, facts: Manifest = manifest) {
  return resolveOptions(options, facts, { promptTokens: prompt.length, randomSeed: 0 });
}

/** Runs the engine and the oracle, and compares every state; the reason for the end. */
async function compareWithOracle(
  engine: Engine,
  prompt: readonly number[],
  options: GenerateOptions,
): Promise<string> {
  const frames = await collect(engine.denoise(prompt, options));
  const oracle = scriptedSession({ script });
  const facts = engine.manifest;
  const resolved = resolve(prompt, options, facts);
  const expected = await decodeNaively(oracle, 0, prompt, resolved, facts);
  const end = frames.at(-1) as EndFrame; // the last frame of every finished generation
  assertEquals(outputIds(frames), expected.ids);
  assertEquals(end.finishReason, expected.finishReason);
  const seen = frames
    .filter((f): f is DraftFrame | CommitFrame => f.type === "draft" || f.type === "commit")
    .map((f) => f.tokens.map((t) => t.id));
  // the engine cuts a block at its end-of-text token; what it shows up to there must be the oracle's
  assertEquals(seen, expected.trajectory.map((block, i) => block.slice(0, seen[i].length)));
  assertEquals(end.usage.forwardPasses, expected.trajectory.length, "no pass that changes nothing");
  return end.finishReason;
}

/** Kinds of models by their facts. */
const KINDS: Readonly<Record<string, Partial<Manifest>>> = {
  "block-causal": {},
  "block-causal, blocks from the prompt's end": { blockGrid: "prompt" },
  "block-causal, shifted": { logitShift: 1, blockGrid: "prompt" },
  "block-causal, first position predicted": { logitShift: 1, blockStart: "predicted" },
  "bidirectional": { attention: "bidirectional", cache: "none", blockGrid: "prompt" },
  "bidirectional, shifted": {
    attention: "bidirectional",
    cache: "none",
    blockGrid: "prompt",
    logitShift: 1,
  },
};

for (const [kind, facts] of Object.entries(KINDS)) {
  Deno.test(`engine equals the naive oracle id by id: ${kind}`, async () => {
    const session = scriptedSession({ script });
    const engine = new Engine(scriptedManifest({ bos: 6, facts }), byteTokenizer(), session);
    const reasons = new Set<string>();
    for (const unmasking of ["low_confidence_dynamic", "sequential"] as const) {
      for (const blockLength of [4, 16]) {
        for (const length of [1, 7, 8, 13, 40]) {
          for (const cfgScale of [0, 1.5]) {
            reasons.add(
              await compareWithOracle(engine, promptOf(length, blockLength), {
                unmasking,
                blockLength,
                cfgScale,
                seed: length,
                temperature: length === 13 ? 0.8 : 0,
                maxTokens: 37,
                confidenceThreshold: 0.4,
                suppressTokens: length === 8 ? [70, 80, 90] : [],
              }),
            );
          }
        }
      }
    }
    assert(reasons.size === 2, "both ways to end must be covered");
    await engine.close();
  });
}

for (const unmasking of UNMASKING.filter((name) => name !== "origin")) {
  Deno.test(`engine equals the naive oracle id by id: ${unmasking}`, async () => {
    const { engine } = openEngine();
    const reasons = new Set<string>();
    for (const blockLength of [4, 8, 16, 32]) {
      for (const length of [1, 7, 8, 13, 40]) {
        for (const temperature of [0, 0.8]) {
          reasons.add(
            await compareWithOracle(engine, promptOf(length, blockLength), {
              unmasking,
              blockLength,
              temperature,
              seed: length,
              maxTokens: 50,
              confidenceThreshold: 0.4,
              entropyBound: 2,
              denoisingSteps: blockLength === 16 ? 5 : undefined,
            }),
          );
        }
      }
    }
    assertEquals([...reasons].sort(), ["length", "stop"], "both ways to end must be covered");
    await engine.close();
  });
}

Deno.test("engine gives a sequence the same text alone and beside others", async () => {
  const { engine, session } = openEngine();
  const cases = [3, 9, 16, 21, 33, 300].map((length) => ({
    prompt: promptOf(length, length),
    options: { temperature: 1, seed: length, maxTokens: 40, blockLength: length % 2 ? 8 : 16 },
  }));
  const alone: number[][] = [];
  for (const { prompt, options } of cases) {
    alone.push(outputIds(await collect(engine.denoise(prompt, options))));
  }
  const calls = session.calls;
  const together = await Promise.all(
    cases.map(async ({ prompt, options }) =>
      outputIds(await collect(engine.denoise(prompt, options)))
    ),
  );
  assertEquals(together, alone);
  assert(session.calls - calls < calls, "passes must have been shared");
  assertEquals(engine.load, { running: 0, waiting: 0, free: 8 });
  await engine.close();
});

Deno.test("engine spends no pass on committing: prompt and finished blocks ride along", async () => {
  const { engine, session } = openEngine();
  const options = { blockLength: 8, unmasking: "sequential", maxTokens: 24 } as const;
  const script = await collect(engine.denoise(promptOf(16), options));
  const end = script.at(-1) as EndFrame; // the last frame of every finished generation
  assertEquals(end.usage.forwardPasses, session.calls);
  assertEquals(end.usage.forwardPasses, outputIds(script).length);
  await engine.close();
});

Deno.test("engine commits text whose concatenation is the final text, and tears no character", async () => {
  const { engine } = openEngine();
  for (let seed = 0; seed < 20; seed++) {
    const frames = await collect(
      engine.stream("prompt", { temperature: 1.5, seed, maxTokens: 70 }),
    );
    const end = frames.at(-1) as EndFrame; // the last frame of every finished generation
    const commits = frames.filter((f): f is CommitFrame => f.type === "commit");
    assertEquals(commits.map((f) => f.text).join(""), end.text);
    const ids = outputIds(frames).filter((id) => !eos.includes(id));
    assertEquals(end.text, engine.codec.decode(ids));
    assertEquals(end.usage.completionTokens, ids.length);
  }
  await engine.close();
});

Deno.test("engine spells characters that span tokens and blocks, whatever order they settle in", async () => {
  const text = "héllo 🙂 wörld – ünïcode ✓";
  const prompt = promptOf(6);
  for (const unmasking of UNMASKING) {
    const session = scriptedSession({ script: spellingScript(text, prompt.length, 3) });
    const engine = new Engine(manifest, byteTokenizer(), session);
    const options = { unmasking, blockLength: 4, maxTokens: 100, confidenceThreshold: 0.99 };
    const frames = await collect(engine.denoise(prompt, options));
    const end = frames.at(-1) as EndFrame; // the last frame of every finished generation
    assertEquals([end.text, end.finishReason], [text, "stop"]);
    for (const frame of frames) {
      if (frame.type === "commit") assert(!frame.text.includes("\ufffd"), frame.text);
    }
    await engine.close();
  }
});

Deno.test("engine ends before a stop string, also one that spans blocks", async () => {
  const { engine } = openEngine();
  const free = await engine.generate("prompt", { seed: 1, maxTokens: 60, blockLength: 8 });
  assert(free.text.length > 20, "the script must write enough to stop in");
  for (const at of [2, 6, 7, 8, 15, 18]) {
    const stop = free.text.slice(at, at + 3);
    const options = { seed: 1, maxTokens: 60, blockLength: 8, stop: [stop, "never-written"] };
    const frames = await collect(engine.stream("prompt", options));
    const end = frames.at(-1) as EndFrame; // the last frame of every finished generation
    assertEquals(end.text, free.text.slice(0, free.text.indexOf(stop)));
    assertEquals(end.finishReason, "stop");
    const commits = frames.filter((f): f is CommitFrame => f.type === "commit");
    assertEquals(commits.map((f) => f.text).join(""), end.text);
  }
  await engine.close();
});

Deno.test("engine writes up to the last position of the context and refuses one more", async () => {
  const { engine } = openEngine();
  const { contextLength } = manifest.architecture;
  const prompt = promptOf(contextLength - 21);
  const run = engine.denoise(prompt, { maxTokens: 21, unmasking: "sequential", seed: 1 });
  const end = (await collect(run)).at(-1) as EndFrame; // the last frame of every finished generation
  assert(end.usage.completionTokens <= 21);
  const error = assertThrows(() => engine.denoise(prompt, { maxTokens: 22 }), EngineError);
  assertEquals([error.code, error.param], ["context_exceeded", "maxTokens"]);
  const full = assertThrows(() => engine.denoise(promptOf(contextLength), {}), EngineError);
  assertEquals([full.code, full.param], ["context_exceeded", "prompt"]);
  await engine.close();
});

Deno.test("engine rejects bad options in the call itself and names the option", async () => {
  const { engine } = openEngine();
  const bad: [Record<string, unknown>, string][] = [
    [{ temperature: 3 }, "temperature"],
    [{ topK: 0 }, "topK"],
    [{ blockLength: 5 }, "blockLength"],
    [{ unmasking: "magic" }, "unmasking"],
    [{ stop: ["a", "b", "c", "d", "e"] }, "stop"],
    [{ stop: [""] }, "stop"],
    [{ seed: -1 }, "seed"],
    [{ maxTokens: 0 }, "maxTokens"],
    [{ temprature: 1 }, "temprature"],
  ];
  for (const [options, param] of bad) {
    const error = assertThrows(() => engine.stream("x", options), EngineError);
    assertEquals([error.code, error.param?.split(".")[0]], ["invalid_request", param]);
    assert(error.message.includes(param), error.message);
  }
  assertThrows(() => engine.stream(""), EngineError, "must not be empty");
  assertThrows(() => engine.denoise([999999]), EngineError, "999999");
  assertEquals(engine.load.running + engine.load.waiting, 0);
  await engine.close();
});

Deno.test("engine keeps the text of special tokens in a prompt as text", async () => {
  const { engine } = openEngine();
  const ids = engine.encodePrompt("a<|mask|>b<|endoftext|>");
  assert(!ids.slice(1).some((id) => id < 16), "no special id but the first");
  await engine.close();
});

Deno.test("engine frees a cancelled sequence within one forward pass", async () => {
  const { engine, session } = openEngine({ delayMs: 20 });
  const abort = new AbortController();
  const frames = engine.denoise(promptOf(5), { maxTokens: 200, signal: abort.signal });
  for await (const frame of frames) if (frame.type === "draft") break; // leaves by return()
  assertEquals(engine.load.running, 1, "the pass under way still holds the slot");
  await new Promise((resolve) => setTimeout(resolve, 60));
  assertEquals(engine.load, { running: 0, waiting: 0, free: 8 });

  const second = engine.denoise(promptOf(5), { maxTokens: 200, signal: abort.signal });
  await second.next();
  abort.abort();
  const error = await assertRejects(() => collect(second), EngineError);
  assertEquals(error.code, "cancelled");
  await new Promise((resolve) => setTimeout(resolve, 60));
  assertEquals(engine.load, { running: 0, waiting: 0, free: 8 });
  assertEquals(session.liveSlots(), []);
  await engine.close();
});

Deno.test("engine obeys a signal even when nobody reads", async () => {
  const { engine, session } = openEngine({ delayMs: 10 });
  const abort = new AbortController();
  engine.denoise(promptOf(5), { maxTokens: 300, signal: abort.signal });
  abort.abort();
  await new Promise((resolve) => setTimeout(resolve, 60));
  assertEquals(engine.load, { running: 0, waiting: 0, free: 8 });
  assert(session.calls <= 1);
  await engine.close();
});

Deno.test("engine refuses a text that cannot fit before it encodes it", async () => {
  const { engine } = openEngine();
  engine.codec.encode = () => {
    throw new Error("must not be encoded");
  };
  const error = assertThrows(() => engine.stream("x".repeat(1_000_000)), EngineError);
  assertEquals([error.code, error.param], ["context_exceeded", "prompt"]);
  await engine.close();
});

Deno.test("engine queues beyond its slots, refuses beyond its queue, and serves all it took", async () => {
  const { engine } = openEngine({ slots: 2, waiting: 3 });
  const runs = [1, 2, 3, 4, 5].map((n) => engine.generate("p" + n, { maxTokens: 12, seed: n }));
  const error = assertThrows(() => engine.stream("one too many"), EngineError);
  assertEquals(error.code, "queue_full");
  const ends = await Promise.all(runs);
  assertEquals(ends.length, 5);
  assert(ends.at(-1)!.timings.queueMs >= ends[0].timings.queueMs);
  await engine.close();
});

Deno.test("engine survives a failing pass: its sequences fail, later ones run", async () => {
  const { engine, session } = openEngine();
  const forward = session.forward.bind(session);
  session.forward = () => {
    session.forward = forward;
    return Promise.reject(new EngineError("backend_failed", "device lost"));
  };
  const error = await assertRejects(() => engine.generate("x", { maxTokens: 8 }), EngineError);
  assertEquals(error.code, "backend_failed");
  assert((await engine.generate("x", { maxTokens: 8 })).usage.forwardPasses > 0);
  assertEquals(engine.load, { running: 0, waiting: 0, free: 8 });
  await engine.close();
});

Deno.test("engine close() ends running and waiting generations and refuses new ones", async () => {
  const { engine } = openEngine({ slots: 1, delayMs: 10 });
  const runs = [1, 2].map((n) =>
    assertRejects(() => engine.generate("p" + n, { maxTokens: 200 }), EngineError)
  );
  await new Promise((resolve) => setTimeout(resolve, 30));
  await engine.close();
  for (const error of await Promise.all(runs)) assertEquals(error.code, "engine_closed");
  assertThrows(() => engine.stream("late"), EngineError, "closed");
  await engine.close();
});

Deno.test("engine shows the whole block in each draft, and masks carry no text", async () => {
  const { engine } = openEngine();
  const frames = await collect(
    engine.denoise(promptOf(11), { blockLength: 8, unmasking: "low_confidence_static", seed: 2 }),
  );
  const drafts = frames.filter((f): f is DraftFrame => f.type === "draft");
  assert(drafts.length > 0);
  for (const { tokens } of drafts) {
    assertEquals(tokens.length, 8);
    for (const { id, state, text, confidence } of tokens) {
      if (state === "masked") assertEquals([id, text, confidence], [mask, "", 0]);
      else assert(confidence > 0 && confidence <= 1);
    }
  }
  assertEquals(drafts[0].tokens.slice(0, 3).map((t) => t.state), ["given", "given", "given"]);
  await engine.close();
});

/** A model that sees its whole canvas. */
const bidirectional = scriptedManifest({
  blockLength: { default: 8 },
  facts: { attention: "bidirectional", cache: "none", blockGrid: "prompt" },
});

Deno.test("engine fills the holes of a prompt, and only a bidirectional model does", async () => {
  const session = scriptedSession({ script: hashedScript(SCRIPTED_VOCABULARY) });
  const engine = new Engine(bidirectional, byteTokenizer(), session);
  const prompt = promptOf(30);
  for (const hole of [3, 4, 17, 29]) prompt[hole] = mask;
  const frames = await collect(engine.denoise(prompt));
  const end = frames.at(-1) as EndFrame; // the last frame of every finished generation
  const canvas = [...prompt];
  for (const frame of frames) {
    if (frame.type !== "commit") continue;
    frame.tokens.forEach((token, i) => {
      if (token.state === "given") assertEquals(token.id, prompt[frame.start + i]);
      canvas[frame.start + i] = token.id;
    });
  }
  assert(!canvas.includes(mask));
  assertEquals(end.usage.completionTokens, 4);
  assertEquals(end.text, engine.codec.decode([3, 4, 17, 29].map((hole) => canvas[hole])));
  assertEquals(
    frames.filter((f) => f.type === "commit").length,
    3,
    "blocks without holes are none",
  );

  const more = await collect(engine.denoise(prompt, { maxTokens: 5, seed: 1 }));
  assertEquals((more.at(-1) as EndFrame).usage.completionTokens, 9);
  await engine.close();
  const { engine: other } = openEngine();
  const error = assertThrows(
    () => other.denoise(prompt),
    EngineError,
    "only a bidirectional model",
  );
  assertEquals([error.code, error.param], ["invalid_request", "prompt"]);
  await other.close();
});

Deno.test("engine takes an approximate cache only where it is one, and never by itself", async () => {
  const { engine } = openEngine();
  const dual = { approximateCache: "dual" } as const;
  const refused: [GenerateOptions, string][] = [
    [{ approximateCache: "prefix" }, "is exact"],
    [dual, "needs a subBlockLength"],
    [{ ...dual, subBlockLength: 4, cfgScale: 1 }, "cannot be combined"],
  ];
  for (const [options, fact] of refused) {
    assertThrows(() => engine.denoise(promptOf(9), options), EngineError, fact);
  }
  const run = engine.denoise(promptOf(9), { ...dual, subBlockLength: 4, maxTokens: 20 });
  assertEquals(outputIds(await collect(run)).length > 0, true);
  await engine.close();
});

Deno.test("approximate caches read less and give the same where nothing they reuse has changed", async () => {
  // a script that looks at its own block only, and so cannot tell what was reused
  const blockwise = hashedScript(SCRIPTED_VOCABULARY);
  const from = 13;
  const own = (ids: readonly number[], position: number) => {
    const start = position < from ? 0 : from + Math.floor((position - from) / 8) * 8;
    return blockwise(ids.slice(start, start + 8), position);
  };
  const results: number[][] = [], sizes: number[] = [];
  for (const approximateCache of ["off", "prefix", "dual"] as const) {
    const session = scriptedSession({ script: own });
    const forward = session.forward.bind(session);
    let read = 0;
    session.forward = (inputs) => {
      for (const { ids } of inputs) read += ids.length;
      return forward(inputs);
    };
    const engine = new Engine(bidirectional, byteTokenizer(), session);
    const run = engine.denoise(promptOf(from), { approximateCache, maxTokens: 32, seed: 1 });
    results.push(outputIds(await collect(run)));
    sizes.push(read);
    await engine.close();
  }
  assertEquals(results[1], results[0]);
  assertEquals(results[2], results[0]);
  assert(sizes[2] < sizes[1] && sizes[1] < sizes[0], `${sizes}`);
});

Deno.test("engine draws from a caller's own random numbers", async () => {
  const { engine } = openEngine();
  let draws = 0;
  const random = () => (draws++, 0);
  const options = { temperature: 1, random, maxTokens: 6, unmasking: "sequential" } as const;
  const drawn = await collect(engine.denoise(promptOf(8), options));
  const greedy = await collect(
    engine.denoise(promptOf(8), { maxTokens: 6, unmasking: "sequential" }),
  );
  assert(draws > 0);
  assertEquals(outputIds(drawn), outputIds(greedy), "0 always draws the most likely token");
  await engine.close();
});
