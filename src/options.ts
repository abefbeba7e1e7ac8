/** What a caller may ask of one generation, and the only place where a default is written. */
import * as v from "valibot";
import {
  CANDIDATES,
  decodingEntries,
  integer,
  type TransferScheduleName,
  type Unmasking,
} from "./decoding.ts";
import { EngineError } from "./errors.ts";
import type { Manifest } from "./manifest.ts";

/**
 * Approximate caches: "prefix" computes what stands before a block once per block, "dual" also what stands behind it
 * (Fast-dLLM, 2505.22618); with block-causal attention "dual" computes a sub-block over its block's first keys and values.
 */
export const APPROXIMATE_CACHES = ["off", "prefix", "dual"] as const;
export type ApproximateCache = typeof APPROXIMATE_CACHES[number];

/** Tokens to write where the caller sets no limit and the context has room. */
const DEFAULT_MAX_TOKENS = 128;

/** The options of one generation; every one may be left out. */
export const optionEntries = {
  /** Text that must follow the output: the model fills in between. */
  suffix: v.optional(v.string("must be a string")),
  /** Most tokens to write; 0 only fills the masks of a prompt. */
  maxTokens: v.optional(integer(0, 1_000_000)),
  /** Same seed, same text. */
  seed: v.optional(integer(0, 4294967295)),
  /** Texts before which the output ends. */
  stop: v.optional(v.pipe(
    v.union([v.string(), v.array(v.string())], "must be a string or up to 4 strings"),
    v.transform((stop) => typeof stop === "string" ? [stop] : stop),
    v.maxLength(4, "must be a string or up to 4 strings"),
    v.everyItem((text) => text.length > 0, "must hold no empty string"),
  )),
  /** Positions denoised together; one of the lengths the model was trained with, where it was. */
  blockLength: v.optional(integer(1, 4096)),
  /** Reuse of keys and values that later positions have changed since: faster, and not what the model would say. */
  approximateCache: v.optional(
    v.picklist(APPROXIMATE_CACHES, `must be one of ${APPROXIMATE_CACHES.join(", ")}`),
  ),
  ...decodingEntries,
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
  readonly subBlockLength: number;
  readonly unmasking: Unmasking;
  readonly confidenceThreshold: number;
  readonly confidenceFactor: number;
  readonly entropyBound: number;
  readonly denoisingSteps: number;
  readonly transferSchedule: TransferScheduleName;
  readonly timestepEpsilon: number;
  readonly confidenceOf: "model" | "sampling";
  readonly cfgScale: number;
  readonly suppressTokens: readonly number[];
  readonly deferTokens: readonly number[];
  readonly approximateCache: ApproximateCache;
}

const refuse = (param: string, fact: string): never => {
  throw new EngineError("invalid_request", `${param}: ${fact}`, { param });
};

/**
 * Checks `options` and fills in what was left out: the manifest's defaults first, then the runtime's.
 *
 * @param facts.promptTokens length of the encoded prompt: with `maxTokens` it must fit the context
 * @param facts.holes how many of its tokens are masks that are to be filled
 * @param facts.randomSeed used where no seed is given
 * @throws {EngineError} `invalid_request` | `context_exceeded`, with the option at fault in `param`
 */
export function resolveOptions(
  options: GenerateOptions,
  manifest: Manifest,
  facts: { readonly promptTokens: number; readonly holes?: number; readonly randomSeed: number },
): ResolvedOptions {
  const given = parseOptions(options);
  if (given.suffix !== undefined && manifest.infill === undefined) {
    refuse("suffix", "this model was not trained to fill in");
  }
  const { promptTokens, holes = 0 } = facts;
  if (holes > 0 && manifest.attention === "block-causal") {
    refuse("prompt", "holds the mask token; only a bidirectional model fills holes");
  }
  const maxTokens = resolveMaxTokens(given.maxTokens, manifest, promptTokens, holes);
  const blockLength = resolveBlockLength(given.blockLength, manifest, promptTokens + maxTokens);
  const { defaults, attention } = manifest;
  const approximateCache = given.approximateCache ?? "off";
  const subBlockLength = Math.min(
    given.subBlockLength ?? defaults.subBlockLength ?? blockLength,
    blockLength,
  );
  if (attention === "block-causal" && approximateCache === "prefix") {
    refuse(
      "approximateCache",
      "prefix: this model's cache of what stands before is exact; use off",
    );
  }
  if (
    attention === "block-causal" && approximateCache === "dual" && subBlockLength === blockLength
  ) {
    refuse("approximateCache", "dual: needs a subBlockLength below the block length here");
  }
  const cfgScale = given.cfgScale ?? defaults.cfgScale ?? 0;
  if (cfgScale > 0 && approximateCache !== "off") {
    refuse("cfgScale", "cannot be combined with an approximateCache");
  }
  const { vocabSize } = manifest.architecture;
  for (const param of ["suppressTokens", "deferTokens"] as const) {
    const alien = given[param]?.find((id) => id >= vocabSize);
    if (alien !== undefined) refuse(param, `${alien} is no token id below ${vocabSize}`);
  }
  return {
    suffix: given.suffix,
    maxTokens,
    temperature: given.temperature ?? defaults.temperature ?? 0,
    topK: given.topK ?? defaults.topK ?? CANDIDATES,
    topP: given.topP ?? defaults.topP ?? 1,
    seed: given.seed ?? facts.randomSeed,
    stop: given.stop ?? [],
    blockLength,
    subBlockLength,
    unmasking: given.unmasking ?? defaults.unmasking ?? "low_confidence_dynamic",
    confidenceThreshold: given.confidenceThreshold ?? defaults.confidenceThreshold ?? 0.9,
    confidenceFactor: given.confidenceFactor ?? defaults.confidenceFactor ?? 1,
    entropyBound: given.entropyBound ?? defaults.entropyBound ?? 0.1,
    denoisingSteps: given.denoisingSteps ?? defaults.denoisingSteps ?? blockLength,
    transferSchedule: given.transferSchedule ?? defaults.transferSchedule ?? "even",
    timestepEpsilon: given.timestepEpsilon ?? defaults.timestepEpsilon ?? 0.001,
    confidenceOf: given.confidenceOf ?? defaults.confidenceOf ?? "model",
    cfgScale,
    suppressTokens: given.suppressTokens ?? defaults.suppressTokens ?? [],
    deferTokens: given.deferTokens ?? defaults.deferTokens ?? [],
    approximateCache,
  };
}

function parseOptions(options: GenerateOptions): v.InferOutput<typeof OptionsSchema> {
  const parsed = v.safeParse(OptionsSchema, options);
  if (parsed.success) return parsed.output;
  const issue = parsed.issues[0];
  const param = v.getDotPath(issue) ?? "options";
  return refuse(param, issue.type === "strict_object" ? "is not an option" : issue.message);
}

function resolveMaxTokens(
  given: number | undefined,
  { architecture: { contextLength } }: Manifest,
  promptTokens: number,
  holes: number,
): number {
  const room = contextLength - promptTokens;
  const maxTokens = given ?? (holes > 0 ? 0 : Math.min(DEFAULT_MAX_TOKENS, room));
  if (maxTokens > room || (holes === 0 && room < 1)) {
    const ask = given === undefined ? "" : ` and maxTokens is ${maxTokens}`;
    throw new EngineError(
      "context_exceeded",
      `the prompt has ${promptTokens} tokens${ask}; the context holds ${contextLength}`,
      { param: room < 1 ? "prompt" : "maxTokens" },
    );
  }
  if (maxTokens === 0 && holes === 0) {
    refuse("maxTokens", "must be from 1 to 1000000 where the prompt holds no mask to fill");
  }
  return maxTokens;
}

function resolveBlockLength(
  given: number | undefined,
  { blockLength: { default: usual, trained } }: Manifest,
  canvas: number,
): number {
  const blockLength = given ?? (usual === "canvas" ? canvas : usual);
  if (trained !== undefined && !trained.includes(blockLength)) {
    refuse(
      "blockLength",
      `${blockLength} is not among this model's block lengths: ${trained.join(", ")}`,
    );
  }
  return blockLength;
}
