/** From the candidates of one position to a token and its confidence. */
import type { ResolvedOptions } from "./options.ts";

/** The candidates of the asked positions of one sequence; N positions, K candidates each. */
export interface Candidates {
  /** [N, K], highest first. */
  readonly logits: Float32Array;
  /** [N, K] */
  readonly ids: Int32Array;
  /** [N]: log-sum-exp over the whole vocabulary. */
  readonly logSumExp: Float32Array;
  /** [N]: entropy of the whole distribution, in nats. */
  readonly entropy: Float32Array;
  /** K */
  readonly width: number;
}

/** A proposed token (papers: x0) and its probability under the untempered distribution (x0_p). */
export interface Sample {
  readonly id: number;
  readonly confidence: number;
}

/** Proposes a token for row `n` of `candidates`. */
export type Sampler = (candidates: Candidates, n: number) => Sample;

/**
 * Makes the sampler that `options` asks for.
 *
 * At temperature 0 it takes the most likely token. Otherwise it draws from the tempered distribution over the candidates
 * that pass top_k and top_p; what lies beyond the head's K candidates cannot be drawn. The confidence is always
 * exp(logit - lse): exact, untempered, over the whole vocabulary.
 *
 * @param suppressed ids that are never proposed (mask, padding)
 * @param random uniform numbers in [0, 1), one is used per draw
 */
export function makeSampler(
  options: Pick<ResolvedOptions, "temperature" | "topK" | "topP">,
  suppressed: ReadonlySet<number>,
  random: () => number,
): Sampler {
  const { temperature, topK, topP } = options;
  return (candidates, n) => {
    const { width, logits, ids, logSumExp } = candidates;
    const allowed: number[] = [];
    for (let k = n * width; k < (n + 1) * width && allowed.length < topK; k++) {
      if (!suppressed.has(ids[k])) allowed.push(k);
      if (temperature === 0 && allowed.length === 1) break;
    }
    if (allowed.length === 0) {
      throw new RangeError(`all ${width} candidates of row ${n} are suppressed`);
    }
    const chosen = temperature === 0
      ? allowed[0]
      : draw(allowed, (k) => (logits[k] - logits[allowed[0]]) / temperature, topP, random());
    return { id: ids[chosen], confidence: Math.exp(logits[chosen] - logSumExp[n]) };
  };
}

/** Draws from softmax(score) over `items` (best first), cut to the smallest head whose mass reaches `topP`. */
function draw(
  items: readonly number[],
  score: (item: number) => number,
  topP: number,
  uniform: number,
): number {
  const weights = items.map((item) => Math.exp(score(item)));
  const total = weights.reduce((sum, w) => sum + w, 0);
  let kept = 0, mass = 0;
  while (kept < items.length && (kept === 0 || mass < topP * total)) mass += weights[kept++];
  let left = uniform * mass;
  for (let i = 0; i < kept; i++) {
    left -= weights[i];
    if (left < 0) return items[i];
  }
  return items[kept - 1];
}
