import { assert, assertEquals } from "@std/assert";
import { UNMASKING } from "../../src/decoding.ts";
import { randomFrom } from "../../src/random.ts";
import { type Proposal, unmaskingStrategy } from "../../src/unmask.ts";
import { type ResolvedOptions, resolveOptions } from "../../src/options.ts";
import { scriptedManifest } from "../support/scripted_session.ts";

const options = resolveOptions({}, scriptedManifest(), { promptTokens: 1, randomSeed: 0 });
const proposals = (...pairs: [number, number, number?][]): Proposal[] =>
  pairs.map(([confidence, entropy, margin = 0]) => ({ confidence, entropy, margin }));

/** A strategy as a function of proposals and quota. */
function strategyOf(changes: Partial<ResolvedOptions>, random = randomFrom(1)) {
  const strategy = unmaskingStrategy({ ...options, ...changes }, random);
  return (list: readonly Proposal[], quota: number, share = 0.5) =>
    strategy(list, { quota, share });
}

Deno.test("unmask() accepts at least one position and never one twice, whatever the strategy", () => {
  const random = randomFrom(3);
  const QUOTALESS = ["threshold", "factor", "factor_with_last"];
  for (const unmasking of UNMASKING) {
    if (unmasking === "origin") continue;
    for (let n = 1; n <= 32; n++) {
      const strategy = strategyOf({ unmasking, confidenceThreshold: random() });
      const quota = 1 + Math.floor(random() * n);
      const accepted = strategy(
        proposals(
          ...Array.from({ length: n }, (): [number, number, number] => [
            random(),
            random() * 3,
            random(),
          ]),
        ),
        quota,
      );
      const least = QUOTALESS.includes(unmasking) ? 1 : quota;
      assert(accepted.length >= least && new Set(accepted).size === accepted.length);
      assert(accepted.every((i) => i >= 0 && i < n));
    }
  }
});

Deno.test("low_confidence_dynamic accepts all above the threshold, else the surest", () => {
  const dynamic = strategyOf({ confidenceThreshold: 0.9 });
  assertEquals(dynamic(proposals([0.95, 1], [0.5, 1], [0.9, 1], [0.99, 1]), 1).sort(), [0, 3]);
  assertEquals(dynamic(proposals([0.2, 1], [0.5, 1], [0.3, 1]), 1), [1]);
  assertEquals(dynamic(proposals([0.95, 1], [0.5, 1], [0.6, 1]), 2), [0, 2]);
});

Deno.test("threshold accepts all at or above it and the surest, whatever the quota", () => {
  const threshold = strategyOf({ unmasking: "threshold", confidenceThreshold: 0.9 });
  assertEquals(threshold(proposals([0.95, 1], [0.5, 1], [0.9, 1]), 3).sort(), [0, 2]);
  assertEquals(threshold(proposals([0.2, 1], [0.5, 1], [0.3, 1]), 3), [1]);
});

Deno.test("factor accepts the n-th surest from 1 - factor / (n + 1) on, up to the first failure", () => {
  // bounds for factor 1: the first is free, then 0.667, 0.75, 0.8
  const list = proposals([0.7, 1], [0.9, 1], [0.76, 1], [0.79, 1]);
  assertEquals(strategyOf({ unmasking: "factor", confidenceFactor: 1 })(list, 1), [1, 3, 2]);
  const few = proposals([0.3, 1], [0.2, 1], [0.1, 1]);
  assertEquals(strategyOf({ unmasking: "factor", confidenceFactor: 1 })(few, 1), [0]);
  const withLast = strategyOf({ unmasking: "factor_with_last", confidenceFactor: 1 });
  assertEquals(withLast(list, 1), [1, 3, 2, 0], "the last one goes along");
  assertEquals(withLast(few, 1), [0]);
});

Deno.test("low_confidence_static accepts exactly the quota's surest, ties to the left", () => {
  const strategy = strategyOf({ unmasking: "low_confidence_static" });
  assertEquals(strategy(proposals([0.9, 1], [0.99, 1], [0.9, 1]), 2), [1, 0]);
});

Deno.test("sequential accepts from the left", () => {
  const strategy = strategyOf({ unmasking: "sequential" });
  assertEquals(strategy(proposals([0.1, 1], [0.99, 1], [0.9, 1]), 2), [0, 1]);
});

Deno.test("entropy and margin rank by what they are called after", () => {
  const list = proposals([0.9, 2, 0.1], [0.5, 1, 0.3], [0.7, 3, 0.2]);
  assertEquals(strategyOf({ unmasking: "entropy" })(list, 2), [1, 0]);
  assertEquals(strategyOf({ unmasking: "margin" })(list, 2), [1, 2]);
});

Deno.test("entropy_bounded accepts while the entropies before a position fit the bound", () => {
  const strategy = strategyOf({ unmasking: "entropy_bounded", entropyBound: 0.5 });
  assertEquals(strategy(proposals([0.5, 0.4], [0.5, 0.1], [0.5, 0.2], [0.5, 3]), 1), [1, 2, 0]);
  assertEquals(strategy(proposals([0.5, 2], [0.5, 1]), 1), [1], "one passes whatever its entropy");
});

Deno.test("origin accepts each position with the step's share, and all in the last step", () => {
  const draws = [0.1, 0.9, 0.49, 0.5];
  const strategy = strategyOf({ unmasking: "origin" }, () => draws.shift() ?? 1);
  const four = proposals([0.5, 1], [0.5, 1], [0.5, 1], [0.5, 1]);
  assertEquals(strategy(four, 1, 0.5), [0, 2]);
  assertEquals(strategy(four, 1, 0), []);
  assertEquals(strategy(four, 1, 1), [0, 1, 2, 3]);
});
