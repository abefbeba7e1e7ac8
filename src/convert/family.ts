/** Families: how the config and tensor names of a foreign checkpoint map to ours. Data in models/families, applied here. */
import { readdir, readFile } from "node:fs/promises";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import type { Manifest } from "../manifest.ts";
import type { Checkpoint } from "./checkpoint.ts";

const scalar = v.union([v.string(), v.number(), v.boolean(), v.null()]);
const configField = v.string();

/** Schema of a file in models/families. */
export const FamilySchema = v.strictObject({
  modelType: v.string(),
  architectures: v.array(v.string()),
  about: v.string(),
  /** Config fields that must have one of these values where they are present. */
  requires: v.record(v.string(), v.array(scalar)),
  /** Our architecture field -> the config's field. */
  architecture: v.record(v.string(), configField),
  /** Facts that hold for the whole family. */
  facts: v.strictObject({
    qkNorm: v.boolean(),
    qkvBias: v.boolean(),
    noise: v.literal("mask"),
    attention: v.literal("block-causal"),
    cache: v.literal("block"),
    logitShift: v.literal(0),
  }),
  /** Our token -> the field of config.json or generation_config.json. */
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
  /** Matrices (our names, {i} for any layer) that are never quantised. */
  keepFloat: v.array(v.string()),
});

/** One family of checkpoints. */
export type Family = v.InferOutput<typeof FamilySchema>;

const FAMILIES = new URL("../../models/families/", import.meta.url);

/** Every family under models/families. */
export async function loadFamilies(folder: URL = FAMILIES): Promise<Family[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".json")).sort();
  return await Promise.all(names.map(async (name) => {
    const json = JSON.parse(await readFile(new URL(name, folder), "utf8"));
    return v.parse(FamilySchema, json);
  }));
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
  for (const [field, allowed] of Object.entries(family.requires)) {
    const value = config[field];
    if (value !== undefined && !(allowed as unknown[]).includes(value)) {
      throw new EngineError(
        "checkpoint_unsupported",
        `config.json: ${field} is ${
          JSON.stringify(value)
        }; ${family.modelType} is supported with ` +
          allowed.map((a) => JSON.stringify(a)).join(" or "),
        { param: field },
      );
    }
  }
  return family;
}

/** What the manifest takes from the checkpoint's configs. */
export type Described = Pick<
  Manifest,
  "architecture" | "tokens" | "noise" | "attention" | "cache" | "logitShift" | "blockLength"
>;

/** Reads a checkpoint's facts through its family; parseManifest checks the result. */
export function describe(checkpoint: Checkpoint, family: Family): Described {
  const { config, generationConfig } = checkpoint;
  const { qkNorm, qkvBias, ...facts } = family.facts;
  const lookUp = (field: string): unknown => config[field] ?? generationConfig[field] ?? undefined;
  const architecture: Record<string, unknown> = { qkNorm, qkvBias };
  for (const [ours, field] of Object.entries(family.architecture)) {
    if (config[field] === undefined) {
      throw new EngineError("checkpoint_unsupported", `config.json has no field ${field}`, {
        param: field,
      });
    }
    architecture[ours] = config[field];
  }
  const mask = lookUp(family.tokens.mask);
  if (mask === undefined) {
    throw new EngineError(
      "checkpoint_unsupported",
      `neither config.json nor generation_config.json names ${family.tokens.mask}`,
      { param: family.tokens.mask },
    );
  }
  const tokenizerConfig = JSON.parse(new TextDecoder().decode(checkpoint.tokenizerConfig));
  const eos = lookUp(family.tokens.eos);
  const blockLength = lookUp(family.blockLength.default) ?? family.blockLength.fallback;
  const tokens: Record<string, unknown> = {
    mask,
    eos: Array.isArray(eos) ? eos : [eos],
    pad: lookUp(family.tokens.pad),
  };
  if (tokenizerConfig.add_bos_token === true) tokens.bos = lookUp(family.tokens.bos);
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
