/** How blocks are decoded: the options that a model may set a default for and a caller may set. */
import * as v from "valibot";

/** How positions of a block are chosen for acceptance in each step; see unmask.ts. */
export const UNMASKING = [
  "low_confidence_dynamic",
  "low_confidence_static",
  "threshold",
  "factor",
  "factor_with_last",
  "sequential",
  "entropy",
  "margin",
  "entropy_bounded",
  "origin",
] as const;

/** Name of an unmasking strategy. */
export type Unmasking = typeof UNMASKING[number];

/** How many positions each step accepts, where the strategy asks; see transfer_schedule.ts. */
export const TRANSFER_SCHEDULES = ["even", "even_block", "linear", "cosine", "timestep"] as const;

/** Name of a transfer schedule. */
export type TransferScheduleName = typeof TRANSFER_SCHEDULES[number];

/** Candidates that the head returns for a position: the bound of top_k, and of what sampling can reach. */
export const CANDIDATES = 64;

/** A whole number within bounds, with a message for callers. */
export const integer = (least: number, most: number) =>
  v.pipe(
    v.number("must be a number"),
    v.integer("must be a whole number"),
    v.minValue(least, `must be from ${least} to ${most}`),
    v.maxValue(most, `must be from ${least} to ${most}`),
  );

const number = (least: number, most: number) =>
  v.pipe(
    v.number("must be a number"),
    v.minValue(least, `must be from ${least} to ${most}`),
    v.maxValue(most, `must be from ${least} to ${most}`),
  );

const oneOf = <const T extends readonly string[]>(names: T) =>
  v.picklist(names, `must be one of ${names.join(", ")}`);

const tokenIds = v.pipe(
  v.array(integer(0, 2 ** 31 - 1), "must be an array of token ids"),
  v.maxLength(64, "must hold at most 64 token ids"),
);

/** Every entry is optional. */
export const decodingEntries = {
  /** 0 always takes the most likely token. */
  temperature: v.optional(number(0, 2)),
  /** Sample among the k most likely tokens only. */
  topK: v.optional(integer(1, CANDIDATES)),
  /** Sample among the most likely tokens whose probabilities sum to this. */
  topP: v.optional(number(0, 1)),
  unmasking: v.optional(oneOf(UNMASKING)),
  /** low_confidence_dynamic accepts every token more probable than this, threshold every one at least so probable. */
  confidenceThreshold: v.optional(number(0, 1)),
  /** factor accepts the n surest tokens while the n-th is at least 1 - factor / (n + 1) probable. */
  confidenceFactor: v.optional(number(0, 100)),
  /** entropy_bounded accepts positions until their summed entropy (nats) passes this. */
  entropyBound: v.optional(number(0, 100)),
  /** Steps that a whole block may take; fewer accept more per step. */
  denoisingSteps: v.optional(integer(1, 4096)),
  transferSchedule: v.optional(oneOf(TRANSFER_SCHEDULES)),
  /** Where the timesteps of the timestep schedule end. */
  timestepEpsilon: v.optional(number(0, 1)),
  /** Positions of a block that may be accepted together, left to right; the block's length unless set. */
  subBlockLength: v.optional(integer(1, 4096)),
  /** Whether a confidence is the model's own probability or that under the tempered and cut distribution drawn from. */
  confidenceOf: v.optional(oneOf(["model", "sampling"])),
  /** Classifier-free guidance: how far to go from what the model says without the prompt to what it says with it. */
  cfgScale: v.optional(number(0, 100)),
  /** Token ids that are never proposed; probabilities are those of the others. */
  suppressTokens: v.optional(tokenIds),
  /** Token ids whose positions are accepted last: their confidence counts as 0. */
  deferTokens: v.optional(tokenIds),
} as const;
