import { assert, assertEquals } from "@std/assert";
import { UNMASKING } from "../../src/options.ts";
import { randomFrom } from "../../src/random.ts";
import { type Proposal, quotas, unmaskingStrategy } from "../../src/unmask.ts";
import { resolveOptions } from "../../src/options.ts";
import { scriptedManifest } from "../support/scripted_session.ts";

const options = resolveOptions({}, scriptedManifest(), { promptTokens: 1, randomSeed: 0 });
const proposals = (...pairs: [number, number][]): Proposal[] =>
  pairs.map(([confidence, entropy], position) => ({ position, confidence, entropy }));

Deno.test("unmask() accepts at least the quota and never a position twice, whatever the strategy", () => {
  const random = randomFrom(3);
  for (const unmasking of UNMASKING) {
    for (let n = 1; n <= 32; n++) {
      const strategy = unmaskingStrategy({ ...options, unmasking, confidenceThreshold: random() });
      const quota = 1 + Math.floor(random() * n);
      const accepted = strategy(
        proposals(...Array.from({ length: n }, (): [number, number] => [random(), random() * 3])),
        quota,
      );
      assert(accepted.length >= quota && new Set(accepted).size === accepted.length);
      assert(accepted.every((i) => i >= 0 && i < n));
    }
  }
});

Deno.test("low_confidence_dynamic accepts all that reach the threshold, else the surest", () => {
  const dynamic = unmaskingStrategy({ ...options, confidenceThreshold: 0.9 });
  assertEquals(dynamic(proposals([0.95, 1], [0.5, 1], [0.9, 1], [0.99, 1]), 1).sort(), [0, 2, 3]);
  assertEquals(dynamic(proposals([0.2, 1], [0.5, 1], [0.3, 1]), 1), [1]);
  assertEquals(dynamic(proposals([0.95, 1], [0.5, 1], [0.6, 1]), 2), [0, 2]);
});

Deno.test("low_confidence_static accepts exactly the quota's surest, ties to the left", () => {
  const strategy = unmaskingStrategy({ ...options, unmasking: "low_confidence_static" });
  assertEquals(strategy(proposals([0.9, 1], [0.99, 1], [0.9, 1]), 2), [1, 0]);
});

Deno.test("sequential accepts from the left", () => {
  const strategy = unmaskingStrategy({ ...options, unmasking: "sequential" });
  assertEquals(strategy(proposals([0.1, 1], [0.99, 1], [0.9, 1]), 2), [0, 1]);
});

Deno.test("entropy_bounded accepts while the entropies before a position fit the bound", () => {
  const strategy = unmaskingStrategy({
    ...options,
    unmasking: "entropy_bounded",
    entropyBound: 0.5,
  });
  assertEquals(strategy(proposals([0.5, 0.4], [0.5, 0.1], [0.5, 0.2], [0.5, 3]), 1), [1, 2, 0]);
  assertEquals(strategy(proposals([0.5, 2], [0.5, 1]), 1), [1], "one passes whatever its entropy");
});

Deno.test("quotas() spread the masks evenly, larger numbers first, and never waste a step", () => {
  assertEquals(quotas(10, 4), [3, 3, 2, 2]);
  assertEquals(quotas(3, 16), [1, 1, 1]);
  assertEquals(quotas(16, 1), [16]);
  for (let masked = 1; masked <= 40; masked++) {
    for (let steps = 1; steps <= 40; steps++) {
      const list = quotas(masked, steps);
      assertEquals(list.reduce((a, b) => a + b), masked);
      assert(list.every((n) => n >= 1));
    }
  }
});
