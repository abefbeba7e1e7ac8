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
  const { logitShift, blockGrid, blockStart, attention } = manifest;
  const { mask, eos, pad } = manifest.tokens;
  const length = options.blockLength;
  const limit = prompt.length + options.maxTokens;
  const whole = attention === "bidirectional";
  const offset = blockGrid === "prompt" ? (length - prompt.length % length) % length : 0;
  const unwritable = new Set([mask, ...(pad === undefined || eos.includes(pad) ? [] : [pad])]);
  const random = randomFrom(options.seed);
  const sample = makeSampler(options, unwritable, random);
  const trajectory: number[][] = [];
  const canvas = [...prompt];
  const ask = async (ids: readonly number[], positions: readonly number[]) => {
    const unconditional = ids.map((id, p) => p < prompt.length ? mask : id);
    const [candidates] = await session.forward([{
      slot,
      start: 0,
      ids,
      cached: 0,
      blockLength: whole ? Infinity : length,
      blockOffset: whole ? 0 : offset,
      keep: 0,
      rows: positions.map((p) => Math.max(0, p - logitShift)),
      watch: [...options.suppressTokens, ...options.deferTokens],
      ...options.cfgScale > 0 ? { guidance: { scale: options.cfgScale, ids: unconditional } } : {},
    }]);
    return { candidates, samples: positions.map((_, n) => sample(candidates, n)) };
  };
  while (true) {
    const start = Math.floor((canvas.length + offset) / length) * length - offset;
    const blockEnd = start + length;
    const end = whole
      ? limit
      : Math.min(blockEnd, blockGrid === "prompt" ? limit : manifest.architecture.contextLength);
    const last = Math.min(blockEnd, limit);
    const ids = [...canvas, ...new Array(end - canvas.length).fill(mask)];
    const masked = new Set<number>();
    for (let p = canvas.length; p < last; p++) masked.add(p);
    const accept = (position: number, id: number) => {
      ids[position] = id;
      masked.delete(position);
    };
    const stopsAt = () => {
      const firstMask = masked.size > 0 ? Math.min(...masked) : Infinity;
      return ids.findIndex((id, p) => p >= canvas.length && p < firstMask && eos.includes(id));
    };
    if (blockStart === "predicted" && start > 0 && masked.has(start)) {
      const { samples: [only] } = await ask(canvas, [start]);
      accept(start, only.id);
      trajectory.push(ids.slice(Math.max(0, start), last));
    }
    const total = masked.size;
    const steps = Math.min(total, options.denoisingSteps);
    for (let step = 0; masked.size > 0 && stopsAt() < 0; step++) {
      const rows = [...masked].sort((a, b) => a - b);
      const { candidates, samples } = await ask(ids, rows);
      const quota = Math.floor(total / steps) + (step < total % steps ? 1 : 0);
      const sure = rows.map((_, n) => samples[n].confidence);
      const margins = rows.map((_, n) => samples[n].margin);
      for (const n of choose(rows, { sure, margins, candidates, quota }, options)) {
        accept(rows[n], samples[n].id);
      }
      trajectory.push(ids.slice(Math.max(0, start), last));
    }
    const stop = stopsAt();
    if (stop >= 0) {
      return { ids: ids.slice(prompt.length, stop + 1), finishReason: "stop", trajectory };
    }
    canvas.splice(0, canvas.length, ...ids.slice(0, last));
    if (canvas.length >= limit) {
      return { ids: canvas.slice(prompt.length), finishReason: "length", trajectory };
    }
  }
}

function choose(
  rows: readonly number[],
  { sure, margins, candidates: { entropy }, quota }: {
    readonly sure: readonly number[];
    readonly margins: readonly number[];
    readonly candidates: Candidates;
    readonly quota: number;
  },
  { unmasking, confidenceThreshold, confidenceFactor, entropyBound }: ResolvedOptions,
): number[] {
  const all = rows.map((_, n) => n);
  const surest = [...all].sort((a, b) => sure[b] - sure[a] || a - b);
  const calmest = [...all].sort((a, b) => entropy[a] - entropy[b] || a - b);
  const widest = [...all].sort((a, b) => margins[b] - margins[a] || a - b);
  const fails = surest.findIndex((n, place) =>
    place > 0 && sure[n] < 1 - confidenceFactor / (place + 2)
  );
  switch (unmasking) {
    case "sequential":
      return all.filter((n) => n < quota);
    case "low_confidence_static":
      return surest.filter((_, place) => place < quota);
    case "low_confidence_dynamic": {
      const passing = all.filter((n) => sure[n] > confidenceThreshold);
      return passing.length < quota ? surest.filter((_, place) => place < quota) : passing;
    }
    case "threshold":
      return all.filter((n) => sure[n] >= confidenceThreshold || n === surest[0]);
    case "factor":
      return fails < 0 ? all : surest.slice(0, fails);
    case "factor_with_last":
      return fails < 0 || fails === rows.length - 1 ? all : surest.slice(0, fails);
    case "entropy":
      return calmest.filter((_, place) => place < quota);
    case "margin":
      return widest.filter((_, place) => place < quota);
    case "entropy_bounded": {
      const before = (place: number) =>
        calmest.slice(0, place).reduce((sum, n) => sum + entropy[n], 0);
      return calmest.filter((_, place) => place < quota || before(place) <= entropyBound);
    }
    case "origin":
      throw new Error("origin draws its own positions: see the reference vectors");
  }
}
