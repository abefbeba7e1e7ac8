/** Families: how the config and tensor names of a foreign checkpoint map to ours. Data in models/families; see describe.ts. */
import { readdir, readFile } from "node:fs/promises";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { PrecisionSchema } from "./precision.ts";

const scalar = v.union([v.string(), v.number(), v.boolean(), v.null()]);
/** A field of config.json or generation_config.json; dots lead into objects. */
const configField = v.string();

/** A value of ours: a constant, or what a field says, translated by a table where their words differ from ours. */
const table = v.record(
  v.string(),
  v.union([
    v.string(),
    v.number(),
    v.strictObject({
      from: v.array(configField),
      map: v.optional(v.record(v.string(), v.union([v.string(), v.number()]))),
    }),
  ]),
);

const blockLength = v.strictObject({
  /** Fields with the lengths that the model was trained with; the default alone, where none is there. */
  trained: v.optional(configField),
  /** Any length may be chosen: the model knows no blocks. */
  any: v.optional(v.boolean(), false),
  default: v.array(configField),
  /** Where the config says nothing. */
  fallback: v.union([v.number(), v.literal("canvas")]),
});

/** Where a token's id is found: a field with ids, or the text of an added token. */
const tokenSources = v.array(v.union([configField, v.strictObject({ text: v.string() })]));

/** Schema of a file in models/families. */
export const FamilySchema = v.strictObject({
  modelType: v.string(),
  architectures: v.array(v.string()),
  about: v.string(),
  /** Fields (of config.json or generation_config.json) that must have one of these values where they are present. */
  requires: v.record(v.string(), v.array(scalar)),
  /**
   * Our architecture field -> the config's field, or its names in order of preference and a value for their absence, or the
   * quotient of two fields.
   */
  architecture: v.record(
    v.string(),
    v.union([
      configField,
      v.strictObject({
        from: v.array(configField),
        quotient: v.optional(v.tuple([configField, configField])),
        /** Fields that it is multiplied with, where they are there. */
        times: v.optional(v.array(configField)),
        default: v.optional(v.union([v.number(), v.boolean(), v.string()])),
        /** Left out where nothing tells it. */
        optional: v.optional(v.boolean()),
      }),
    ]),
  ),
  /** Facts of model.json; parseManifest checks the values. */
  facts: table,
  /** Trainings of the same architecture that decode differently: one is chosen by what the config says, or by name. */
  variants: v.optional(v.record(
    v.string(),
    v.strictObject({
      /** Field -> the values that tell this variant; an empty list: its presence. */
      when: v.record(v.string(), v.array(scalar)),
      facts: table,
      defaults: v.optional(table, {}),
      blockLength: v.optional(blockLength),
    }),
  )),
  /** Our token -> where its id is found, in order of preference; end-of-text tokens are gathered from all. */
  tokens: v.strictObject({
    mask: tokenSources,
    eos: tokenSources,
    bos: tokenSources,
    pad: tokenSources,
  }),
  blockLength,
  /** Decoding defaults. */
  defaults: v.optional(table, {}),
  /**
   * Our tensor -> the checkpoint's; {i} is the layer, {e} the expert. `part`: only the rows of one of query, key and value
   * of a fused matrix. `gate` and `up`: the rows of two matrices in turn.
   */
  tensors: v.record(
    v.string(),
    v.union([
      v.string(),
      v.strictObject({ from: v.string(), part: v.picklist(["q", "k", "v"]) }),
      v.strictObject({ gate: v.string(), up: v.string() }),
    ]),
  ),
  /** Tensors of ours that a checkpoint may lack (biases). */
  optional: v.optional(v.array(v.string()), []),
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

/** Whether a tensor's name is one of the patterns, {i} standing for any layer and {e} for any expert. */
export function fits(name: string, patterns: readonly string[]): boolean {
  return patterns.includes(
    name.replace(/\.\d+\./, ".{i}.").replace(/\.\d+\./, ".{e}."),
  );
}
