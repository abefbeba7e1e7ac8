/** Which masked positions of a block are accepted in one denoising step: a table of functions. */
import type { Unmasking } from "./decoding.ts";
import type { ResolvedOptions } from "./options.ts";
import type { TransferStep } from "./transfer_schedule.ts";

/** What a strategy sees of one masked position: its sample's certainty. */
export interface Proposal {
  /** Probability of the proposed token (papers: x0_p). */
  readonly confidence: number;
  /** Probability of the most likely token less that of the second. */
  readonly margin: number;
  /** Entropy of the distribution, in nats. */
  readonly entropy: number;
}

/**
 * Picks the positions to accept.
 *
 * @param proposals the open masked positions, in order of position; at least one
 * @param step what the schedule says about this step
 * @returns indices into `proposals`; at least one, except of "origin"
 */
export type Strategy = (proposals: readonly Proposal[], step: TransferStep) => number[];

const ranked = (proposals: readonly Proposal[], score: (p: Proposal) => number): number[] =>
  proposals.map((_, i) => i).sort((a, b) => score(proposals[b]) - score(proposals[a]) || a - b);

/** The quota's best by a score. */
const best = (score: (p: Proposal) => number): Strategy => (proposals, { quota }) =>
  ranked(proposals, score).slice(0, Math.max(1, quota));

const confidence = (p: Proposal) => p.confidence;

/** How many of `order` pass while the n-th, from 1, is at least 1 - factor / (n + 1) probable; the first always. */
function passing(proposals: readonly Proposal[], order: readonly number[], factor: number): number {
  let n = 1;
  while (n < order.length && proposals[order[n]].confidence >= 1 - factor / (n + 2)) n++;
  return n;
}

type MakeStrategy = (options: ResolvedOptions, random: () => number) => Strategy;

const STRATEGIES: Readonly<Record<Unmasking, MakeStrategy>> = {
  /** The quota's surest positions (LLaDA, 2502.09992: low-confidence remasking; Dream: maskgit_plus). */
  low_confidence_static: () => best(confidence),

  /** Every position above the threshold where they are at least the quota, else the quota's surest (SDAR, LLaDA2). */
  low_confidence_dynamic: ({ confidenceThreshold }) => (proposals, step) => {
    const order = ranked(proposals, confidence);
    const sure = order.filter((i) => proposals[i].confidence > confidenceThreshold);
    return sure.length >= Math.max(1, step.quota) ? sure : best(confidence)(proposals, step);
  },

  /** Every position at or above the threshold, and always the surest; no quota (Fast-dLLM, 2505.22618). */
  threshold: ({ confidenceThreshold }) => (proposals) =>
    ranked(proposals, confidence).filter((i, rank) =>
      rank === 0 || proposals[i].confidence >= confidenceThreshold
    ),

  /** The n surest while the n-th is at least 1 - factor / (n + 1) probable; no quota (Fast-dLLM). */
  factor: ({ confidenceFactor }) => (proposals) => {
    const order = ranked(proposals, confidence);
    return order.slice(0, passing(proposals, order, confidenceFactor));
  },

  /** The same, but a last position that would be left alone goes along (as NVlabs' Fast-dLLM code does). */
  factor_with_last: ({ confidenceFactor }) => (proposals) => {
    const order = ranked(proposals, confidence);
    const count = passing(proposals, order, confidenceFactor);
    return order.slice(0, count === order.length - 1 ? order.length : count);
  },

  /** The quota's leftmost positions. */
  sequential: () => (proposals, { quota }) =>
    proposals.map((_, i) => i).slice(0, Math.max(1, quota)),

  /** The quota's positions of least entropy (Dream). */
  entropy: () => best((p) => -p.entropy),

  /** The quota's positions of largest margin (Dream: topk_margin). */
  margin: () => best((p) => p.margin),

  /**
   * Positions by rising entropy while the entropies before them sum to at most the bound (EB-Sampler, 2505.24857), at
   * least the quota.
   */
  entropy_bounded: ({ entropyBound }) => (proposals, { quota }) => {
    const order = ranked(proposals, (p) => -p.entropy);
    let sum = 0, count = 0;
    while (count < order.length && sum <= entropyBound) sum += proposals[order[count++]].entropy;
    return order.slice(0, Math.max(count, quota));
  },

  /** Each position by a draw of its own, whatever its confidence (Dream; D3PM, 2107.03006): a step may accept none. */
  origin: (_, random) => (proposals, { share }) =>
    proposals.map((_, i) => i).filter(() => share === 1 || random() < share),
};

/**
 * The strategy that `options.unmasking` names.
 *
 * @param random uniform numbers in [0, 1), for "origin"
 */
export function unmaskingStrategy(options: ResolvedOptions, random: () => number): Strategy {
  return STRATEGIES[options.unmasking](options, random);
}
