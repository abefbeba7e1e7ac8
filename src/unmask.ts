/** Which masked positions of a block are accepted in one denoising step: a table of functions. */
import type { ResolvedOptions, Unmasking } from "./options.ts";

/** What a strategy sees of one masked position. */
export interface Proposal {
  /** Position in the block. */
  readonly position: number;
  /** Probability of the proposed token under the model (papers: x0_p). */
  readonly confidence: number;
  /** Entropy of the whole distribution, in nats. */
  readonly entropy: number;
}

/**
 * Picks the positions to accept.
 *
 * @param proposals the open masked positions, in order of position; at least one
 * @param quota the schedule's number for this step, at least 1
 * @returns indices into `proposals`, at least one
 */
export type Strategy = (proposals: readonly Proposal[], quota: number) => number[];

const ranked = (proposals: readonly Proposal[], score: (p: Proposal) => number): number[] =>
  proposals.map((_, i) => i).sort((a, b) => score(proposals[b]) - score(proposals[a]) || a - b);

const STRATEGIES: Readonly<Record<Unmasking, (options: ResolvedOptions) => Strategy>> = {
  /** The quota's surest positions (LLaDA, 2502.09992: low-confidence remasking). */
  low_confidence_static: () => (proposals, quota) =>
    ranked(proposals, (p) => p.confidence).slice(0, quota),

  /** Every position at or above the threshold, at least the quota's surest (Fast-dLLM, 2505.22618; SDAR). */
  low_confidence_dynamic: ({ confidenceThreshold }) => (proposals, quota) => {
    const order = ranked(proposals, (p) => p.confidence);
    const sure = order.filter((i) => proposals[i].confidence >= confidenceThreshold);
    return sure.length >= quota ? sure : order.slice(0, quota);
  },

  /** The quota's leftmost positions. */
  sequential: () => (proposals, quota) => proposals.map((_, i) => i).slice(0, quota),

  /**
   * Positions by rising entropy while the entropies before them sum to at most the bound (EB-Sampler, 2505.24857), at
   * least the quota.
   */
  entropy_bounded: ({ entropyBound }) => (proposals, quota) => {
    const order = ranked(proposals, (p) => -p.entropy);
    let sum = 0, count = 0;
    while (count < order.length && sum <= entropyBound) sum += proposals[order[count++]].entropy;
    return order.slice(0, Math.max(count, quota));
  },
};

/** The strategy that `options.unmasking` names, with its numbers bound. */
export function unmaskingStrategy(options: ResolvedOptions): Strategy {
  return STRATEGIES[options.unmasking](options);
}

/**
 * How many positions each step must accept at least, so that `masked` positions take `steps` steps: as even as can be,
 * larger numbers first (LLaDA's get_num_transfer_tokens), never 0.
 *
 * @example
 * ```ts
 * import { quotas } from "./unmask.ts";
 * if (quotas(10, 4).join() !== "3,3,2,2") throw new Error("uneven");
 * ```
 */
export function quotas(masked: number, steps: number): number[] {
  const count = Math.min(steps, masked);
  const least = Math.floor(masked / count);
  return Array.from({ length: count }, (_, i) => least + (i < masked % count ? 1 : 0));
}
