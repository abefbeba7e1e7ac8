import { assert, assertEquals } from "@std/assert";
import { mix, openScorer } from "../../src/eval/bits.ts";
import { summarise } from "../../src/eval/report.ts";
import type { Scored } from "../../src/eval/store.ts";
import { loadBundle, loadTokenizer } from "../../src/mod.ts";
import { type ModelSession, openSession } from "../../src/session.ts";
import { TINY } from "../support/tiny.ts";
import { wholeLogits } from "../support/whole_logits.ts";

const options = { backends: ["wasm"], threads: 1 } as const;
const bundle = await loadBundle(TINY);

/** The bound, by its definition: all numbers and all places of masks, no cache. */
async function naiveBound(session: ModelSession, clean: number[], blockLength: number) {
  const { tokens: { mask }, architecture: { vocabSize } } = bundle.manifest;
  let nats = 0;
  for (let start = 0; start < clean.length; start += blockLength) {
    const first = start === 0 ? 1 : 0; // the opening token is given
    const places = Array.from({ length: blockLength - first }, (_, i) => first + i);
    /** mean cross-entropies of the subsets of each size */
    const means: number[][] = places.map(() => []);
    for (let subset = 1; subset < 2 ** places.length; subset++) {
      const masked = places.filter((_, i) => (subset >> i) & 1).map((place) => start + place);
      const ids = clean.slice(0, start + blockLength);
      for (const position of masked) ids[position] = mask;
      const input = { slot: 0, start: 0, ids, blockLength, keep: 0, rows: masked };
      const { rows, logSumExp } = await wholeLogits(session, input, vocabSize);
      const costs = masked.map((position, n) => logSumExp[n] - rows[n][clean[position]]);
      means[masked.length - 1].push(costs.reduce((a, b) => a + b) / costs.length);
    }
    const bySize = means.map((list) => list.reduce((a, b) => a + b) / list.length);
    nats += places.length * bySize.reduce((a, b) => a + b) / places.length;
  }
  return nats;
}

Deno.test("the bound of a text is what all masks of every block cost on average", async () => {
  const text = "function first(array) {\n  return array[0];\n}";
  const { manifest, weights, tokenizerJson, tokenizerConfig } = bundle;
  const { bos, eos: [eos] } = manifest.tokens;
  if (bos === undefined) throw new Error("the model has an opening token");
  const clean = [bos, ...loadTokenizer(tokenizerJson, tokenizerConfig).encode(text), eos];
  while (clean.length % 4 !== 0) clean.push(eos);
  const session = await openSession({
    manifest,
    weights,
    backends: options.backends,
    options: { threads: 1, softwareAdapter: false },
  });
  const exact = await naiveBound(session, clean, 4);
  await session.close();

  const scorer = await openScorer(bundle, options);
  const draws = 60;
  // Two copies beside a longer text: what shares a pass must not matter.
  const texts = [{ text, seed: 5 }, { text: text.repeat(3), seed: 6 }, { text, seed: 5 }];
  const [one, , again] = await scorer.score(texts, 4, draws);
  await scorer.close();
  assertEquals(one.bytes, text.length);
  const mean = one.nats.reduce((a, b) => a + b) / draws;
  const spread = one.nats.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (draws - 1);
  const error = Math.sqrt(spread / draws);
  assert(Math.abs(mean - exact) < 4 * error, `${mean} ± ${error}, exactly ${exact}`);
  assert(error < exact / 15, `${error} proves little about ${exact}`);
  one.nats.forEach((value, i) => assert(Math.abs(value - again.nats[i]) < 1e-3));
});

/**
 * The bound of the first 12 documents of heldout.json at block length 4, over all masks, from the training code:
 * `python3 exact.py CHECKPOINT .. ../heldout.json 12` in models/tiny/train.
 */
const TRAINER_BITS = 0.90511;

Deno.test("the shipped model's bits per byte are its trainer's", async () => {
  const heldout = JSON.parse(await Deno.readTextFile(new URL("heldout.json", TINY)));
  const texts: string[] = heldout.documents.slice(0, 12).map((d: { text: string }) => d.text);
  const scorer = await openScorer(bundle, options);
  const asked = texts.map((text, i) => ({ text, seed: mix(3, i) }))
    .sort((a, b) => a.text.length - b.text.length);
  const results: Scored[] = [];
  for (let i = 0; i < asked.length; i += scorer.batch) {
    for (const result of await scorer.score(asked.slice(i, i + scorer.batch), 4, 4)) {
      results.push({ run: "", task: "", model: "", blockLength: 4, ...result });
    }
  }
  await scorer.close();
  const row = summarise(results, { parses: false });
  if (!("bitsPerByte" in row)) throw new Error("a row of bits");
  assertEquals(row.bytes, 6053);
  const off = Math.abs(row.bitsPerByte - TRAINER_BITS);
  assert(off < 3.5 * row.maskError, `${row.bitsPerByte} ± ${row.maskError}`);
  assert(row.maskError < 0.015, `${row.maskError} would prove little`);
});

Deno.test("a text longer than the context is scored in windows, and every byte counts", async () => {
  const scorer = await openScorer(bundle, options);
  const line = "export const value = compute(value, options);\n";
  const [short, long] = await scorer.score(
    [{ text: line.repeat(20), seed: 1 }, { text: line.repeat(60), seed: 1 }],
    32,
    1,
  );
  await scorer.close();
  assertEquals([short.bytes, long.bytes], [line.length * 20, line.length * 60]);
  assert(long.nats[0] > short.nats[0] && Number.isFinite(long.nats[0]));
});
