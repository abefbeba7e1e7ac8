/** Families: how the config and tensor names of a foreign checkpoint map to ours. Data in models/families, applied here. */
import { readdir, readFile } from "node:fs/promises";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import type { Manifest } from "../manifest.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { PrecisionSchema } from "./precision.ts";

const scalar = v.union([v.string(), v.number(), v.boolean(), v.null()]);
/** A field of a config; dots lead into objects. */
const configField = v.string();

/** Schema of a file in models/families. */
export const FamilySchema = v.strictObject({
  modelType: v.string(),
  architectures: v.array(v.string()),
  about: v.string(),
  /** Fields (of config.json or generation_config.json) that must have one of these values where they are present. */
  requires: v.record(v.string(), v.array(scalar)),
  /** Our architecture field -> the config's field, or its names in order of preference and a value for their absence. */
  architecture: v.record(
    v.string(),
    v.union([
      configField,
      v.strictObject({
        from: v.array(configField),
        default: v.optional(v.union([v.number(), v.boolean()])),
      }),
    ]),
  ),
  /** Facts that hold for the whole family. */
  facts: v.strictObject({
    qkNorm: v.boolean(),
    qkvBias: v.boolean(),
    noise: v.literal("mask"),
    attention: v.literal("block-causal"),
    cache: v.literal("block"),
    logitShift: v.literal(0),
  }),
  /**
   * Our token -> the field X_id of config.json or generation_config.json; where neither has it, the text in field X of
   * tokenizer_config.json counts.
   */
  tokens: v.strictObject({
    mask: configField,
    eos: configField,
    bos: configField,
    pad: configField,
  }),
  blockLength: v.strictObject({
    trained: configField,
    default: configField,
    /** Where the config says nothing. */
    fallback: v.number(),
  }),
  /** Our tensor -> the checkpoint's; {i} is the layer. */
  tensors: v.record(v.string(), v.string()),
  /** Tensors of the checkpoint, besides those above, that the model does not need. Any other is an error. */
  ignored: v.array(v.string()),
  /** Matrices that are stored in another form than the one asked for. */
  precision: PrecisionSchema,
});

/** One family of checkpoints. */
export type Family = v.InferOutput<typeof FamilySchema>;

const FAMILIES = new URL("../../models/families/", import.meta.url);

/** Every family under models/families. */
export async function loadFamilies(folder: URL = FAMILIES): Promise<Family[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".json")).sort();
  return await Promise.all(names.map(async (name) => {
    return parseFamily(JSON.parse(await readFile(new URL(name, folder), "utf8")), name);
  }));
}

/** Parses the content of a family file. */
export function parseFamily(json: unknown, name: string): Family {
  const result = v.safeParse(FamilySchema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new TypeError(
    `models/families/${name}: ${v.getDotPath(issue) ?? "(root)"}: ${issue.message}`,
  );
}

/**
 * The family of a checkpoint: by `architectures` where it names one, else by `model_type`.
 *
 * @throws {EngineError} `checkpoint_unsupported`, listing what is supported
 */
export function familyOf(config: Checkpoint["config"], families: readonly Family[]): Family {
  const architectures = Array.isArray(config.architectures) ? config.architectures : [];
  const family = families.find((f) => f.architectures.some((a) => architectures.includes(a))) ??
    families.find((f) => f.modelType === config.model_type && architectures.length === 0);
  if (family === undefined) {
    const known = families.map((f) => `${f.modelType} (${f.architectures.join(", ")})`).join("; ");
    throw new EngineError(
      "checkpoint_unsupported",
      `model_type ${JSON.stringify(config.model_type)} with architectures ` +
        `${JSON.stringify(config.architectures)} is not supported; supported: ${known}`,
      { param: "architectures" },
    );
  }
  return family;
}

/**
 * Refuses a checkpoint that differs from what the runtime computes.
 *
 * @throws {EngineError} `checkpoint_unsupported`, naming the field, its value and the allowed ones
 */
function checkRequirements({ config, generationConfig }: Checkpoint, family: Family): void {
  for (const [file, json] of Object.entries({ config, generation_config: generationConfig })) {
    for (const [field, allowed] of Object.entries(family.requires)) {
      const value = at(json, field);
      if (value === undefined) continue;
      const each = Array.isArray(value) ? value : [value]; // layer_types says it once per layer
      if (each.every((one) => allowed.includes(one))) continue;
      throw new EngineError(
        "checkpoint_unsupported",
        `${file}.json: ${field} is ${
          JSON.stringify(value)
        }; ${family.modelType} is supported with ` +
          allowed.map((a) => JSON.stringify(a)).join(" or "),
        { param: field },
      );
    }
  }
}

/** What the manifest takes from the checkpoint's configs. */
export type Described = Pick<
  Manifest,
  "architecture" | "tokens" | "noise" | "attention" | "cache" | "logitShift" | "blockLength"
>;

/**
 * Reads a checkpoint's facts through its family; parseManifest checks the result.
 *
 * @throws {EngineError} `checkpoint_unsupported`, naming what is missing or not supported
 */
export function describe(checkpoint: Checkpoint, family: Family): Described {
  checkRequirements(checkpoint, family);
  const { config, generationConfig } = checkpoint;
  const { qkNorm, qkvBias, ...facts } = family.facts;
  const lookUp = (field: string): unknown => at(config, field) ?? at(generationConfig, field);
  const architecture: Record<string, unknown> = { qkNorm, qkvBias };
  for (const [ours, source] of Object.entries(family.architecture)) {
    const spec = typeof source === "string" ? { from: [source], default: undefined } : source;
    const value = spec.from.map((field) => at(config, field)).find((one) => one !== undefined) ??
      spec.default;
    if (value === undefined) {
      throw new EngineError(
        "checkpoint_unsupported",
        `config.json has no field ${spec.from.join(" or ")}`,
        { param: spec.from[0] },
      );
    }
    architecture[ours] = value;
  }

  const tokenizerConfig = JSON.parse(new TextDecoder().decode(checkpoint.tokenizerConfig));
  const added = addedTokens(checkpoint);
  const token = (field: string): unknown => {
    const named = tokenizerConfig[field.replace(/_id$/, "")];
    return lookUp(field) ?? added.get(named?.content ?? named);
  };
  const needed = (field: string): unknown => {
    const id = token(field);
    if (id !== undefined) return id;
    throw new EngineError(
      "checkpoint_unsupported",
      `neither config.json nor generation_config.json names ${field}, nor tokenizer_config.json its text`,
      { param: field },
    );
  };
  const eos = needed(family.tokens.eos);
  const blockLength = lookUp(family.blockLength.default) ?? family.blockLength.fallback;
  const tokens: Record<string, unknown> = {
    mask: needed(family.tokens.mask),
    eos: Array.isArray(eos) ? eos : [eos],
    pad: token(family.tokens.pad),
  };
  if (tokenizerConfig.add_bos_token === true) tokens.bos = token(family.tokens.bos);
  return {
    ...facts,
    architecture,
    tokens,
    blockLength: {
      default: blockLength,
      trained: lookUp(family.blockLength.trained) ?? [blockLength],
    },
  } as Described; // checked against the manifest's schema by the caller
}

/** Ids of the added tokens of tokenizer.json by their text. */
export function addedTokens(checkpoint: Checkpoint): ReadonlyMap<string, number> {
  const json = JSON.parse(new TextDecoder().decode(checkpoint.tokenizer));
  const added: { id: number; content: string }[] = json.added_tokens ?? [];
  return new Map(added.map((token) => [token.content, token.id]));
}

/** Whether a tensor's name is one of the patterns, {i} standing for any layer. */
export function fits(name: string, patterns: readonly string[]): boolean {
  return patterns.includes(name.replace(/\.\d+\./, ".{i}."));
}

/** The value under a dotted path, undefined where there is none or null. */
function at(json: unknown, path: string): unknown {
  let value = json;
  for (const key of path.split(".")) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[key]; // an object by the check above
  }
  return value ?? undefined;
}
