/**
 * Transfer schedules: how many masked positions each denoising step turns into tokens (the reference codes'
 * `get_num_transfer_tokens`), as plain arithmetic. Rounding is part of their definition, so it is theirs to the bit.
 */
import type { TransferScheduleName } from "./decoding.ts";

/** One denoising step of a schedule. */
export interface TransferStep {
  /** Positions to accept. */
  readonly quota: number;
  /** Probability with which "origin" accepts each position. */
  readonly share: number;
}

/** What a schedule is made from. */
export interface TransferFacts {
  /** Masked positions. */
  readonly masked: number;
  /** Steps in which they are to be filled; at least 1. */
  readonly steps: number;
  /** Positions of the whole block. */
  readonly blockLength: number;
  /** Last timestep of "timestep". */
  readonly epsilon: number;
}

const { fround } = Math;

/** `total` in `steps` whole parts, as even as can be, larger ones first. */
const evenly = (total: number, steps: number): number[] =>
  Array.from({ length: steps }, (_, i) => Math.floor(total / steps) + (i < total % steps ? 1 : 0));

const shareless = (quotas: readonly number[]): TransferStep[] =>
  quotas.map((quota) => ({ quota, share: 0 }));

function roundHalfToEven(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** dllm's schedules: after step i the expected share 1 - alpha is still masked, in float32. */
function fromAlpha({ masked, steps }: TransferFacts, alpha: (t: number) => number): TransferStep[] {
  const quotas: number[] = [];
  for (let j = steps, left = masked; j > 0 && left > 0; j--) {
    const s = fround((j - 1) / steps), t = fround(j / steps);
    const stays = fround(fround(1 - alpha(s)) / fround(1 - alpha(t)));
    const quota = Math.min(left, roundHalfToEven(left * (1 - stays)));
    left -= quota;
    quotas.push(quota);
  }
  return shareless(quotas);
}

/** Dream's timesteps, a float32 linspace from 1 to epsilon. */
function fromTimesteps({ masked, steps, epsilon }: TransferFacts): TransferStep[] {
  const count = steps + 1, stride = fround(fround(fround(epsilon) - 1) / steps);
  const times = Array.from(
    { length: count },
    (_, i) =>
      i < Math.floor(count / 2)
        ? fround(1 + fround(stride * i))
        : fround(fround(epsilon) - fround(stride * (steps - i))),
  );
  let left = masked;
  return Array.from({ length: steps }, (_, i) => {
    if (i === steps - 1) return { quota: left, share: 1 };
    const share = fround(1 - fround(times[i + 1] / times[i]));
    const quota = Math.trunc(fround(left * share));
    left -= quota;
    return { quota, share };
  });
}

const SCHEDULES: Readonly<Record<TransferScheduleName, (facts: TransferFacts) => TransferStep[]>> =
  {
    /** Even over the masked positions (LLaDA, 2502.09992; Fast-dLLM, 2505.22618). */
    even: ({ masked, steps }) => shareless(evenly(masked, steps)),
    /** Even over the block's length, however many of its positions are masked (SDAR, LLaDA2). */
    even_block: ({ blockLength, steps }) => shareless(evenly(blockLength, steps)),
    /** alpha(t) = 1 - t (dllm: bd3lm, mdlm). */
    linear: (facts) => fromAlpha(facts, (t) => fround(1 - t)),
    /** alpha(t) = 1 - cos(pi / 2 (1 - t)) (dllm). */
    cosine: (facts) =>
      fromAlpha(
        facts,
        (t) => fround(1 - fround(Math.cos(fround(fround(Math.PI / 2) * fround(1 - t))))),
      ),
    /** Dream: the share of timesteps passed, truncated, the last step takes the rest. */
    timestep: fromTimesteps,
  };

/**
 * The steps of a schedule, in order; some may accept nothing.
 *
 * @example
 * ```ts
 * import { transferSchedule } from "./transfer_schedule.ts";
 * const facts = { masked: 12, steps: 5, blockLength: 12, epsilon: 0 };
 * const quotas = transferSchedule("even", facts).map((step) => step.quota);
 * if (quotas.join() !== "3,3,2,2,2") throw new Error("uneven");
 * ```
 */
export function transferSchedule(name: TransferScheduleName, facts: TransferFacts): TransferStep[] {
  return SCHEDULES[name](facts);
}
