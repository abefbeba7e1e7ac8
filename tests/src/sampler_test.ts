import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { randomFrom } from "../../src/random.ts";
import { makeSampler } from "../../src/sampler.ts";
import { candidatesOf } from "../support/scripted_session.ts";

const probabilities = [0.5, 0.3, 0.15, 0.04, 0.01];
const candidates = candidatesOf([probabilities.map(Math.log)], 5);
const none = new Set<number>();

/** How often each id is drawn. */
function frequencies(
  options: { temperature: number; topK: number; topP: number },
  suppressed: ReadonlySet<number> = none,
): number[] {
  const sample = makeSampler(options, suppressed, randomFrom(5));
  const counts = new Array(5).fill(0);
  for (let i = 0; i < 20000; i++) counts[sample(candidates, 0).id]++;
  return counts.map((count) => count / 20000);
}

function assertClose(actual: number[], expected: number[]) {
  expected.forEach((value, i) => assertAlmostEquals(actual[i], value, 0.015));
}

Deno.test("sampler takes the most likely token at temperature 0, with its probability", () => {
  const sample = makeSampler({ temperature: 0, topK: 64, topP: 1 }, none, () => 0.99);
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
  const sample = makeSampler({ temperature: 0, topK: 64, topP: 1 }, suppressed, () => 0);
  assertAlmostEquals(sample(candidates, 0).confidence, 0.3, 1e-6);
  assertThrows(
    () =>
      makeSampler({ temperature: 0, topK: 64, topP: 1 }, new Set([0, 1, 2, 3, 4]), () => 0)(
        candidates,
        0,
      ),
    RangeError,
    "suppressed",
  );
});

Deno.test("randomFrom() repeats with the same seed and spreads evenly", () => {
  const [a, b, c] = [randomFrom(1), randomFrom(1), randomFrom(2)];
  const first = Array.from({ length: 10000 }, a);
  assertEquals(first, Array.from({ length: 10000 }, b));
  assert(first[0] !== c());
  assertAlmostEquals(first.reduce((x, y) => x + y) / first.length, 0.5, 0.01);
});
