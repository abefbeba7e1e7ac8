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
  /** [N, W]: logits of the ids that the pass was asked to watch. */
  readonly watched: Float32Array;
}

/** A proposed token (papers: x0) and how sure the model is of it. */
export interface Sample {
  readonly id: number;
  /** Probability of the token (papers: x0_p). */
  readonly confidence: number;
  /** Probability of the most likely token less that of the second. */
  readonly margin: number;
  /** Entropy of the distribution, in nats. */
  readonly entropy: number;
}

/** Proposes a token for row `n` of `candidates`. */
export type Sampler = (candidates: Candidates, n: number) => Sample;

/** The options that a sampler is made from. */
export type SamplerOptions = Pick<
  ResolvedOptions,
  "temperature" | "topK" | "topP" | "confidenceOf" | "suppressTokens" | "deferTokens"
>;

/** Ids whose logits a sampler needs besides the candidates, in the order of {@link Candidates.watched}. */
export function watchedTokens(
  options: Pick<SamplerOptions, "suppressTokens" | "deferTokens">,
): readonly number[] {
  return [...new Set([...options.suppressTokens, ...options.deferTokens])];
}

/**
 * Makes the sampler that `options` asks for.
 *
 * At temperature 0 it takes the most likely token. Otherwise it draws from the tempered distribution over the candidates
 * that pass top_k and top_p; what lies beyond the head's K candidates cannot be drawn. By default the confidence is
 * exp(logit - lse): exact, untempered, over the whole vocabulary less `suppressTokens`. With `confidenceOf: "sampling"` it
 * is the probability in the distribution drawn from (Dream): at temperature 0 or 1 exact too.
 *
 * @param unwritable ids that are never proposed although the probabilities of the others stand (mask, padding)
 * @param random uniform numbers in [0, 1), one is used per draw
 */
export function makeSampler(
  options: SamplerOptions,
  unwritable: ReadonlySet<number>,
  random: () => number,
): Sampler {
  const { temperature, topK, topP, confidenceOf } = options;
  const suppressed = new Set(options.suppressTokens), deferred = new Set(options.deferTokens);
  const watched = watchedTokens(options);
  return (candidates, n) => {
    const { width, logits, ids } = candidates;
    const allowed: number[] = [];
    for (let k = n * width; k < (n + 1) * width; k++) {
      if (!unwritable.has(ids[k]) && !suppressed.has(ids[k])) allowed.push(k);
    }
    if (allowed.length === 0) {
      throw new RangeError(`all ${width} candidates of row ${n} are suppressed`);
    }
    // the logarithm of the model's whole mass, of tokens that may be written now
    const model = without(candidates, n, watched, suppressed);
    const flat = temperature === 0 || temperature === 1;
    const scale = temperature === 0 ? 1 : temperature;
    const weightOf = (k: number) => Math.exp((logits[k] - logits[allowed[0]]) / scale);
    const cut = () => {
      const total = flat
        ? Math.exp(model.logSumExp - logits[allowed[0]])
        : allowed.reduce((sum, k) => sum + weightOf(k), 0);
      return head(allowed.slice(0, topK), weightOf, topP * total);
    };
    // the surest token with the model's own confidence, which is most of all sampling, needs no cut
    const kept = temperature > 0 || confidenceOf === "sampling" ? cut() : allowed;
    const chosen = temperature === 0 ? allowed[0] : draw(kept, weightOf, random());
    if (confidenceOf === "sampling") {
      return kept.length < allowed.length || !flat
        ? amongKept(kept, weightOf, chosen, ids[chosen])
        : byModel(candidates, allowed, chosen, model);
    }
    if (deferred.size === 0) return byModel(candidates, allowed, chosen, model);
    if (deferred.has(ids[chosen])) {
      return { ...byModel(candidates, allowed, chosen, model), confidence: 0 };
    }
    const rest = without(candidates, n, watched, new Set([...suppressed, ...deferred]));
    return byModel(candidates, allowed, chosen, rest);
  };
}

/** Mass and entropy of a row's distribution. */
interface Mass {
  readonly logSumExp: number;
  readonly entropy: number;
}

/** The distribution of row `n` without some of the watched ids, renormalised. */
function without(
  candidates: Candidates,
  n: number,
  watched: readonly number[],
  removed: ReadonlySet<number>,
): Mass {
  const logSumExp = candidates.logSumExp[n], entropy = candidates.entropy[n];
  if (removed.size === 0) return { logSumExp, entropy };
  const { width, logits, ids } = candidates;
  // Sum what stays rather than subtract what goes: a removed token may hold nearly all of the mass.
  let inside = 0, allInside = 0, outside = 0, lost = 0, lostEntropy = 0;
  const seen = new Set<number>();
  for (let k = n * width; k < (n + 1) * width; k++) {
    const p = Math.exp(logits[k] - logSumExp);
    allInside += p;
    seen.add(ids[k]);
    if (!removed.has(ids[k])) inside += p;
  }
  watched.forEach((id, w) => {
    if (!removed.has(id)) return;
    const logP = candidates.watched[n * watched.length + w] - logSumExp;
    lost += Math.exp(logP);
    lostEntropy += Math.exp(logP) * logP;
    if (!seen.has(id)) outside += Math.exp(logP);
  });
  const stays = Math.max(Number.MIN_VALUE, inside + Math.max(0, 1 - allInside - outside));
  return {
    logSumExp: logSumExp + Math.log(stays),
    entropy: Math.max(0, (entropy + lostEntropy) / stays + Math.log(stays)),
  };
}

function byModel(
  { logits, ids }: Candidates,
  allowed: readonly number[],
  chosen: number,
  { logSumExp, entropy }: Mass,
): Sample {
  const p = (k: number | undefined) => k === undefined ? 0 : Math.exp(logits[k] - logSumExp);
  return {
    id: ids[chosen],
    confidence: p(chosen),
    margin: p(allowed[0]) - p(allowed[1]),
    entropy,
  };
}

function amongKept(
  kept: readonly number[],
  weightOf: (k: number) => number,
  chosen: number,
  id: number,
): Sample {
  const weights = kept.map(weightOf);
  const total = weights.reduce((sum, w) => sum + w, 0);
  return {
    id,
    confidence: weightOf(chosen) / total,
    margin: (weights[0] - (weights[1] ?? 0)) / total,
    entropy: weights.reduce((sum, w) => w > 0 ? sum - w / total * Math.log(w / total) : sum, 0),
  };
}

/** The smallest head of `items` (best first) whose weights reach `mass`; at least one. */
function head(
  items: readonly number[],
  weightOf: (item: number) => number,
  mass: number,
): readonly number[] {
  let kept = 0, sum = 0;
  while (kept < items.length && (kept === 0 || sum < mass)) sum += weightOf(items[kept++]);
  return items.slice(0, kept);
}

function draw(
  items: readonly number[],
  weightOf: (item: number) => number,
  uniform: number,
): number {
  const weights = items.map(weightOf);
  let left = uniform * weights.reduce((sum, w) => sum + w, 0);
  for (let i = 0; i < items.length; i++) {
    left -= weights[i];
    if (left < 0) return items[i];
  }
  return items[items.length - 1];
}
