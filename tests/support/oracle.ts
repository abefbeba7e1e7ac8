/**
 * The naive decoder that the engine must equal, id by id: one sequence, no cache, the whole canvas through the model at
 * every step, and the strategies written a second time in their plainest form.
 */
import type { Manifest } from "../../src/manifest.ts";
import type { ResolvedOptions } from "../../src/options.ts";
import { randomFrom } from "../../src/random.ts";
import { type Candidates, makeSampler } from "../../src/sampler.ts";
import type { ModelSession } from "../../src/session.ts";

/** What the oracle saw: output ids (end-of-text included) and the block after each step. */
export interface OracleResult {
  readonly ids: number[];
  readonly finishReason: "stop" | "length";
  /** ids of the current block after every step, up to the limit of the output */
  readonly trajectory: number[][];
}

/** Decodes `prompt` with a session that is only ever asked from position 0. */
export async function decodeNaively(
  session: ModelSession,
  slot: number,
  prompt: readonly number[],
  options: ResolvedOptions,
  manifest: Manifest,
): Promise<OracleResult> {
  const { mask, eos, pad } = manifest.tokens;
  const length = options.blockLength;
  const limit = prompt.length + options.maxTokens;
  const suppressed = new Set([mask, ...(pad === undefined || eos.includes(pad) ? [] : [pad])]);
  const sample = makeSampler(options, suppressed, randomFrom(options.seed));
  const trajectory: number[][] = [];
  const canvas = [...prompt];
  while (true) {
    const start = Math.floor(canvas.length / length) * length;
    const end = Math.min(start + length, manifest.architecture.contextLength);
    const ids = [...canvas, ...new Array(end - canvas.length).fill(mask)];
    const masked = new Set<number>();
    for (let p = canvas.length; p < Math.min(end, limit); p++) masked.add(p);
    const total = masked.size;
    const steps = Math.min(total, options.denoisingSteps);
    for (let step = 0; masked.size > 0; step++) {
      const rows = [...masked].sort((a, b) => a - b);
      const [candidates] = await session.forward([
        { slot, start: 0, ids, blockLength: length, keep: 0, rows },
      ]);
      const quota = Math.floor(total / steps) + (step < total % steps ? 1 : 0);
      const samples = rows.map((_, n) => sample(candidates, n));
      for (const n of choose(rows, samples.map((s) => s.confidence), candidates, quota, options)) {
        ids[rows[n]] = samples[n].id;
        masked.delete(rows[n]);
      }
      trajectory.push(ids.slice(start, Math.min(end, limit)));
      const firstMask = masked.size > 0 ? Math.min(...masked) : Infinity;
      const stop = ids.findIndex((id, p) =>
        p >= canvas.length && p < firstMask && eos.includes(id)
      );
      if (stop >= 0) {
        return { ids: ids.slice(prompt.length, stop + 1), finishReason: "stop", trajectory };
      }
    }
    canvas.splice(0, canvas.length, ...ids.slice(0, Math.min(end, limit)));
    if (canvas.length >= limit) {
      return { ids: canvas.slice(prompt.length), finishReason: "length", trajectory };
    }
  }
}

function choose(
  rows: readonly number[],
  confidence: readonly number[],
  { entropy }: Candidates,
  quota: number,
  { unmasking, confidenceThreshold, entropyBound }: ResolvedOptions,
): number[] {
  const all = rows.map((_, n) => n);
  const surest = [...all].sort((a, b) => confidence[b] - confidence[a] || a - b);
  switch (unmasking) {
    case "sequential":
      return all.filter((n) => n < quota);
    case "low_confidence_static":
      return surest.filter((_, place) => place < quota);
    case "low_confidence_dynamic": {
      const passing = all.filter((n) => confidence[n] >= confidenceThreshold);
      return passing.length < quota ? surest.filter((_, place) => place < quota) : passing;
    }
    case "entropy_bounded": {
      const calmest = [...all].sort((a, b) => entropy[a] - entropy[b] || a - b);
      const before = (place: number) =>
        calmest.slice(0, place).reduce((sum, n) => sum + entropy[n], 0);
      return calmest.filter((_, place) => place < quota || before(place) <= entropyBound);
    }
  }
}
