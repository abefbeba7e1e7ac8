/** The manifest (`model.json`): every fact about a model that the runtime may branch on. */
import * as v from "valibot";
import { decodingEntries } from "./decoding.ts";
import { EngineError } from "./errors.ts";

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const tokenId = v.pipe(v.number(), v.integer(), v.minValue(0));
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

/** Mixture of experts in the layers from `denseLayers` on. */
export const ExpertsSchema = v.strictObject({
  count,
  /** Experts that a token goes through. */
  perToken: count,
  /** Inner size of each. */
  ffnSize: count,
  /** Inner size of the one that every token goes through too. */
  sharedFfnSize: v.optional(count),
  /** Layers before the mixtures that have one network of `ffnSize`. */
  denseLayers: v.pipe(v.number(), v.integer(), v.minValue(0)),
  scoring: v.picklist(["sigmoid", "softmax"]),
  /** Whether the weights of a token's experts sum to 1, before `scale`. */
  normalize: v.boolean(),
  scale: v.number(),
  /** Groups of experts, of which a token may use `groupsPerToken`. */
  groups: count,
  groupsPerToken: count,
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
  /** Dimensions of a head that are rotated, from the first; all unless set. */
  rotaryDim: v.optional(count),
  experts: v.optional(ExpertsSchema),
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
  /** Whether a position sees its own and earlier blocks, or the whole canvas. */
  attention: v.picklist(["block-causal", "bidirectional"]),
  /** The exact cache of keys and values: finished blocks, or none where later positions change earlier ones. */
  cache: v.picklist(["block", "none"]),
  /** 0: logits at a position predict that position; 1: the next one. */
  logitShift: v.picklist([0, 1]),
  /** Where blocks begin: at multiples of their length, or counted from the end of the prompt. */
  blockGrid: v.picklist(["absolute", "prompt"]),
  /** How the first position of a block is filled: with the others, or before them by the block's predecessor. */
  blockStart: v.picklist(["denoised", "predicted"]),
  blockLength: v.strictObject({
    /** `"canvas"`: prompt and output are one block. */
    default: v.union([count, v.literal("canvas")]),
    /** Lengths seen in training: the ones a caller may choose. Any, where the model knows no blocks. */
    trained: v.optional(v.pipe(v.array(count), v.minLength(1))),
  }),
  /** Marker tokens of fill-in-the-middle, order prefix, suffix, middle. */
  infill: v.optional(
    v.strictObject({ prefix: tokenId, suffix: tokenId, middle: tokenId }),
  ),
  /** Jinja source that makes a conversation a text, where the model was trained on conversations. */
  chatTemplate: v.optional(v.pipe(v.string(), v.minLength(1))),
  /** Decoding defaults that suit this model; the rest comes from options.ts. */
  defaults: v.strictObject(decodingEntries),
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
/** A mixture of experts. */
export type Experts = v.InferOutput<typeof ExpertsSchema>;
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
  const { experts } = architecture;
  if (experts !== undefined && experts.count % experts.groups !== 0) {
    fail("architecture.experts.count", `${experts.count} is no multiple of groups`);
  }
  for (const id of [tokens.mask, ...tokens.eos, tokens.bos ?? 0, tokens.pad ?? 0]) {
    if (id >= architecture.vocabSize) fail("tokens", `id ${id} lies outside the vocabulary`);
  }
  const { trained, default: usual } = blockLength;
  if (trained !== undefined && !(typeof usual === "number" && trained.includes(usual))) {
    fail("blockLength.default", `${usual} is not one of blockLength.trained`);
  }
  const { attention, cache, blockStart, logitShift } = result.output;
  if (cache !== (attention === "block-causal" ? "block" : "none")) {
    fail("cache", `${cache} does not go with ${attention} attention`);
  }
  if (attention === "block-causal" && usual === "canvas") {
    fail("blockLength.default", "canvas needs bidirectional attention");
  }
  if (blockStart === "predicted" && (logitShift === 0 || attention === "bidirectional")) {
    fail("blockStart", "predicted needs logitShift 1 and block-causal attention");
  }
  return result.output;
}
