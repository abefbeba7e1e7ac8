/** What a caller may ask of one generation, and the only place where a default is written. */
import * as v from "valibot";
import { EngineError } from "./errors.ts";
import type { Manifest } from "./manifest.ts";

/** How positions of a block are chosen for acceptance in each step; see unmask.ts. */
export const UNMASKING = [
  "low_confidence_dynamic",
  "low_confidence_static",
  "sequential",
  "entropy_bounded",
] as const;

/** Name of an unmasking strategy. */
export type Unmasking = typeof UNMASKING[number];

/** Candidates that the head returns for a position: the bound of top_k, and of what sampling can reach. */
export const CANDIDATES = 64;

/** Tokens to write where the caller sets no limit and the context has room. */
const DEFAULT_MAX_TOKENS = 128;

const integer = (least: number, most: number) =>
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

/** The options of one generation; every one may be left out. */
export const optionEntries = {
  /** Text that must follow the output: the model fills in between. */
  suffix: v.optional(v.string("must be a string")),
  /** Most tokens to write. */
  maxTokens: v.optional(integer(1, 1_000_000)),
  /** 0 always takes the most likely token. */
  temperature: v.optional(number(0, 2)),
  /** Sample among the k most likely tokens only. */
  topK: v.optional(integer(1, CANDIDATES)),
  /** Sample among the most likely tokens whose probabilities sum to this. */
  topP: v.optional(number(0, 1)),
  /** Same seed, same text. */
  seed: v.optional(integer(0, 4294967295)),
  /** Texts before which the output ends. */
  stop: v.optional(v.pipe(
    v.union([v.string(), v.array(v.string())], "must be a string or up to 4 strings"),
    v.transform((stop) => typeof stop === "string" ? [stop] : stop),
    v.maxLength(4, "must be a string or up to 4 strings"),
    v.everyItem((text) => text.length > 0, "must hold no empty string"),
  )),
  /** Positions denoised together; one of the lengths the model was trained with. */
  blockLength: v.optional(integer(1, 4096)),
  unmasking: v.optional(v.picklist(UNMASKING, `must be one of ${UNMASKING.join(", ")}`)),
  /** low_confidence_dynamic accepts every token at least this probable. */
  confidenceThreshold: v.optional(number(0, 1)),
  /** entropy_bounded accepts positions until their summed entropy (nats) passes this. */
  entropyBound: v.optional(number(0, 100)),
  /** Forward passes that a whole block may take; fewer accept more per pass. */
  denoisingSteps: v.optional(integer(1, 4096)),
} as const;

/** The schema of {@link GenerateOptions}: unknown keys are errors. */
export const OptionsSchema = v.strictObject(optionEntries);

/** Options of one generation, as a caller writes them. */
export type GenerateOptions = v.InferInput<typeof OptionsSchema>;

/** Options of one generation with every default filled in. */
export interface ResolvedOptions {
  readonly suffix: string | undefined;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly seed: number;
  readonly stop: readonly string[];
  readonly blockLength: number;
  readonly unmasking: Unmasking;
  readonly confidenceThreshold: number;
  readonly entropyBound: number;
  readonly denoisingSteps: number;
}

/**
 * Checks `options` and fills in what was left out: the manifest's defaults first, then the runtime's.
 *
 * @param facts.promptTokens length of the encoded prompt: with `maxTokens` it must fit the context
 * @param facts.randomSeed used where no seed is given
 * @throws {EngineError} `invalid_request` | `context_exceeded`, with the option at fault in `param`
 */
export function resolveOptions(
  options: GenerateOptions,
  manifest: Manifest,
  facts: { readonly promptTokens: number; readonly randomSeed: number },
): ResolvedOptions {
  const parsed = v.safeParse(OptionsSchema, options);
  if (!parsed.success) {
    const issue = parsed.issues[0];
    const param = v.getDotPath(issue) ?? undefined;
    const fact = issue.type === "strict_object" ? "is not an option" : issue.message;
    throw new EngineError("invalid_request", `${param}: ${fact}`, { param });
  }
  const given = parsed.output;
  const blockLength = given.blockLength ?? manifest.blockLength.default;
  const { trained } = manifest.blockLength;
  if (!trained.includes(blockLength)) {
    throw new EngineError(
      "invalid_request",
      `blockLength: ${blockLength} is not among this model's block lengths: ${trained.join(", ")}`,
      { param: "blockLength" },
    );
  }
  if (given.suffix !== undefined && manifest.infill === undefined) {
    throw new EngineError("invalid_request", "suffix: this model was not trained to fill in", {
      param: "suffix",
    });
  }
  const { contextLength } = manifest.architecture;
  const room = contextLength - facts.promptTokens;
  const maxTokens = given.maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, room);
  if (room < 1 || maxTokens > room) {
    const ask = given.maxTokens === undefined ? "" : ` and maxTokens is ${maxTokens}`;
    throw new EngineError(
      "context_exceeded",
      `the prompt has ${facts.promptTokens} tokens${ask}; the context holds ${contextLength}`,
      { param: room < 1 ? "prompt" : "maxTokens" },
    );
  }
  return {
    suffix: given.suffix,
    maxTokens,
    temperature: given.temperature ?? manifest.defaults.temperature ?? 0,
    topK: given.topK ?? CANDIDATES,
    topP: given.topP ?? 1,
    seed: given.seed ?? facts.randomSeed,
    stop: given.stop ?? [],
    blockLength,
    unmasking: given.unmasking ?? "low_confidence_dynamic",
    confidenceThreshold: given.confidenceThreshold ?? manifest.defaults.confidenceThreshold ?? 0.9,
    entropyBound: given.entropyBound ?? 0.1,
    denoisingSteps: given.denoisingSteps ?? blockLength,
  };
}
