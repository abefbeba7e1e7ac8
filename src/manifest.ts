/** The manifest (`model.json`): every fact about a model that the runtime may branch on. */
import * as v from "valibot";
import { EngineError } from "./errors.ts";

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const tokenId = v.pipe(v.number(), v.integer(), v.minValue(0));
const fraction = v.pipe(v.number(), v.minValue(0), v.maxValue(1));
const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "a lower-case hexadecimal SHA-256"));

/** How matrices can be stored, smallest first: see graph/storage.ts. */
export const DTYPES = ["q4", "q8", "w8a8", "fp16", "fp32"] as const;
export type Dtype = typeof DTYPES[number];

/** A file of the bundle, relative to model.json, with what it must hash to. */
const FileSchema = v.strictObject({
  path: v.pipe(v.string(), v.regex(/^[\w.-]+$/, "a plain file name")),
  bytes: count,
  sha256,
});

/** Shape of the transformer (sizes in elements). */
export const ArchitectureSchema = v.strictObject({
  layers: count,
  hiddenSize: count,
  heads: count,
  kvHeads: count,
  headDim: count,
  ffnSize: count,
  vocabSize: count,
  /** Longest sequence, prompt and output together, in tokens. */
  contextLength: count,
  normEpsilon: v.pipe(v.number(), v.minValue(0)),
  ropeTheta: v.pipe(v.number(), v.minValue(1)),
  /** RMSNorm of each head of q and k before the rotation (Qwen3). */
  qkNorm: v.boolean(),
  qkvBias: v.boolean(),
  tiedEmbeddings: v.boolean(),
});

export const ManifestSchema = v.strictObject({
  format: v.literal("cinnabar-bundle"),
  version: v.literal(1),
  name: v.pipe(v.string(), v.minLength(1)),
  architecture: ArchitectureSchema,
  /** How most matrices are stored; the weights file tells the form of each. */
  dtype: v.picklist(DTYPES),
  tokens: v.strictObject({
    /** Placed before every prompt. */
    bos: v.optional(tokenId),
    mask: tokenId,
    eos: v.pipe(v.array(tokenId), v.minLength(1)),
    pad: v.optional(tokenId),
  }),
  noise: v.literal("mask"),
  attention: v.literal("block-causal"),
  cache: v.literal("block"),
  /** 0: logits at a position predict that position; 1: the next one. */
  logitShift: v.literal(0),
  blockLength: v.strictObject({
    default: count,
    /** Lengths seen in training: the ones a caller may choose. */
    trained: v.pipe(v.array(count), v.minLength(1)),
  }),
  /** Marker tokens of fill-in-the-middle, order prefix, suffix, middle. */
  infill: v.optional(
    v.strictObject({ prefix: tokenId, suffix: tokenId, middle: tokenId }),
  ),
  /** Decoding defaults that suit this model; the rest comes from options.ts. */
  defaults: v.strictObject({
    confidenceThreshold: v.optional(fraction),
    temperature: v.optional(v.pipe(v.number(), v.minValue(0))),
  }),
  /** Prompts that suit the model, for the page. */
  samplePrompts: v.array(v.string()),
  files: v.strictObject({
    weights: FileSchema,
    tokenizer: FileSchema,
    tokenizerConfig: FileSchema,
  }),
});

/** Facts of one model, as parsed from `model.json`. */
export type Manifest = v.InferOutput<typeof ManifestSchema>;
/** Shape of the transformer. */
export type Architecture = v.InferOutput<typeof ArchitectureSchema>;
/** One file of a bundle. */
export type BundleFile = v.InferOutput<typeof FileSchema>;

/**
 * Parses the content of a `model.json`.
 *
 * @throws {EngineError} `bundle_invalid`, naming the field and what it must be
 */
export function parseManifest(json: unknown): Manifest {
  const result = v.safeParse(ManifestSchema, json);
  if (!result.success) {
    const issue = result.issues[0];
    throw new EngineError(
      "bundle_invalid",
      `model.json: ${v.getDotPath(issue) ?? "(root)"}: ${issue.message}`,
      { param: v.getDotPath(issue) ?? undefined },
    );
  }
  const { architecture, tokens, blockLength } = result.output;
  const fail = (param: string, fact: string) => {
    throw new EngineError("bundle_invalid", `model.json: ${param}: ${fact}`, { param });
  };
  if (architecture.heads % architecture.kvHeads !== 0) {
    fail("architecture.heads", `${architecture.heads} is no multiple of kvHeads`);
  }
  for (const id of [tokens.mask, ...tokens.eos, tokens.bos ?? 0, tokens.pad ?? 0]) {
    if (id >= architecture.vocabSize) fail("tokens", `id ${id} lies outside the vocabulary`);
  }
  if (!blockLength.trained.includes(blockLength.default)) {
    fail("blockLength.default", `${blockLength.default} is not one of blockLength.trained`);
  }
  return result.output;
}
