import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { randomFrom } from "../../src/random.ts";
import { makeSampler, type Sample, type SamplerOptions } from "../../src/sampler.ts";
import { candidatesOf } from "../support/scripted_session.ts";

const probabilities = [0.5, 0.3, 0.15, 0.04, 0.01];
const candidates = candidatesOf([probabilities.map(Math.log)], 5);
const none = new Set<number>();

const plain: SamplerOptions = {
  temperature: 0,
  topK: 64,
  topP: 1,
  confidenceOf: "model",
  suppressTokens: [],
  deferTokens: [],
};

/** How often each id is drawn. */
function frequencies(
  options: { temperature: number; topK: number; topP: number },
  suppressed: ReadonlySet<number> = none,
): number[] {
  const sample = makeSampler({ ...plain, ...options }, suppressed, randomFrom(5));
  const counts = new Array(5).fill(0);
  for (let i = 0; i < 20000; i++) counts[sample(candidates, 0).id]++;
  return counts.map((count) => count / 20000);
}

function assertClose(actual: number[], expected: number[]) {
  expected.forEach((value, i) => assertAlmostEquals(actual[i], value, 0.015));
}

Deno.test("sampler takes the most likely token at temperature 0, with its probability", () => {
  const sample = makeSampler(plain, none, () => 0.99);
  const { id, confidence } = sample(candidates, 0);
  assertEquals(id, 0);
  assertAlmostEquals(confidence, 0.5, 1e-6);
});

Deno.test("sampler draws by probability, and the temperature bends it", () => {
  assertClose(frequencies({ temperature: 1, topK: 64, topP: 1 }), probabilities);
  const bent = probabilities.map((p) => p ** 2);
  const total = bent.reduce((a, b) => a + b);
  assertClose(frequencies({ temperature: 0.5, topK: 64, topP: 1 }), bent.map((p) => p / total));
});

Deno.test("sampler keeps to top_k and to the smallest head that reaches top_p", () => {
  assertClose(frequencies({ temperature: 1, topK: 2, topP: 1 }), [0.625, 0.375, 0, 0, 0]);
  assertClose(frequencies({ temperature: 1, topK: 64, topP: 0.6 }), [0.625, 0.375, 0, 0, 0]);
  assertClose(frequencies({ temperature: 1, topK: 64, topP: 0 }), [1, 0, 0, 0, 0]);
});

Deno.test("sampler never proposes a suppressed token and keeps the true confidence", () => {
  const suppressed = new Set([0]);
  assertEquals(frequencies({ temperature: 1, topK: 1, topP: 1 }, suppressed)[1], 1);
  const sample = makeSampler(plain, suppressed, () => 0);
  assertAlmostEquals(sample(candidates, 0).confidence, 0.3, 1e-6);
  assertThrows(
    () =>
      makeSampler(plain, new Set([0, 1, 2, 3, 4]), () => 0)(
        candidates,
        0,
      ),
    RangeError,
    "suppressed",
  );
});

/** The sample at temperature 0 where some ids are watched. */
function sampleOf(changes: Partial<SamplerOptions>): Sample {
  const options = { ...plain, ...changes };
  const watch = [...new Set([...options.suppressTokens, ...options.deferTokens])];
  const watched = Float32Array.from(watch, (id) => Math.log(probabilities[id]));
  return makeSampler(options, none, () => 0)({ ...candidates, watched }, 0);
}

const entropyOf = (ps: number[]) => ps.reduce((sum, p) => sum - p * Math.log(p), 0);

Deno.test("sampler gives the margin and the entropy of the distribution", () => {
  const { margin, entropy } = sampleOf({});
  assertAlmostEquals(margin, 0.2, 1e-6);
  assertAlmostEquals(entropy, entropyOf(probabilities), 1e-6);
});

Deno.test("suppressTokens leave the distribution: the others share their mass", () => {
  const { id, confidence, margin, entropy } = sampleOf({ suppressTokens: [0, 4] });
  const rest = [0.3, 0.15, 0.04].map((p) => p / 0.49);
  assertEquals(id, 1);
  assertAlmostEquals(confidence, rest[0], 1e-6);
  assertAlmostEquals(margin, rest[0] - rest[1], 1e-6);
  assertAlmostEquals(entropy, entropyOf(rest), 1e-5);
});

Deno.test("suppressTokens count where the head does not return them too", () => {
  const narrow = candidatesOf([probabilities.map(Math.log)], 2);
  const watched = Float32Array.of(Math.log(0.15));
  const sample = makeSampler({ ...plain, suppressTokens: [2] }, none, () => 0);
  assertAlmostEquals(sample({ ...narrow, watched }, 0).confidence, 0.5 / 0.85, 1e-6);
});

Deno.test("deferTokens keep the token but not its confidence, and leave the mass of others", () => {
  assertEquals([sampleOf({ deferTokens: [0] }).id, sampleOf({ deferTokens: [0] }).confidence], [
    0,
    0,
  ]);
  assertAlmostEquals(sampleOf({ deferTokens: [1] }).confidence, 0.5 / 0.7, 1e-6);
});

Deno.test("confidenceOf sampling is the share among what top_k and top_p leave", () => {
  const sampling = { confidenceOf: "sampling" } as const;
  assertAlmostEquals(sampleOf(sampling).confidence, 0.5, 1e-6);
  assertAlmostEquals(sampleOf({ ...sampling, topK: 2 }).confidence, 0.625, 1e-6);
  const { confidence, margin, entropy } = sampleOf({ ...sampling, topP: 0.9 });
  assertAlmostEquals(confidence, 0.5 / 0.95, 1e-6);
  assertAlmostEquals(margin, 0.2 / 0.95, 1e-6);
  assertAlmostEquals(entropy, entropyOf([0.5, 0.3, 0.15].map((p) => p / 0.95)), 1e-6);
});

Deno.test("randomFrom() repeats with the same seed and spreads evenly", () => {
  const [a, b, c] = [randomFrom(1), randomFrom(1), randomFrom(2)];
  const first = Array.from({ length: 10000 }, a);
  assertEquals(first, Array.from({ length: 10000 }, b));
  assert(first[0] !== c());
  assertAlmostEquals(first.reduce((x, y) => x + y) / first.length, 0.5, 0.01);
});
