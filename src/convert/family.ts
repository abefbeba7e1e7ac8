/** Families: how the config and tensor names of a foreign checkpoint map to ours. Data in models/families, applied here. */
import { readdir, readFile } from "node:fs/promises";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import type { Manifest } from "../manifest.ts";
import type { Checkpoint } from "./checkpoint.ts";

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
  /** Matrices (our names, {i} for any layer) that are never quantised. */
  keepFloat: v.array(v.string()),
});

/** One family of checkpoints. */
export type Family = v.InferOutput<typeof FamilySchema>;
type ArchitectureSource = Exclude<Family["architecture"][string], string>;

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
  | "architecture"
  | "tokens"
  | "noise"
  | "attention"
  | "cache"
  | "logitShift"
  | "blockGrid"
  | "blockStart"
  | "blockLength"
  | "defaults"
>;

/**
 * Reads a checkpoint's facts through its family; parseManifest checks the result.
 *
 * @param variantName which of the family's variants it is, where the config does not tell
 * @throws {EngineError} `checkpoint_unsupported`, naming what is missing or not supported
 */
export function describe(
  checkpoint: Checkpoint,
  family: Family,
  variantName?: string,
): Described {
  checkRequirements(checkpoint, family);
  const { config, generationConfig } = checkpoint;
  const lookUp = (field: string): unknown => at(config, field) ?? at(generationConfig, field);
  const first = (fields: readonly string[]): unknown =>
    fields.map(lookUp).find((value) => value !== undefined);
  const variant = variantOf(family, lookUp, variantName);
  const { default: usual, fallback, trained, any } = variant?.blockLength ?? family.blockLength;
  const blockLength = first(usual) ?? fallback;
  const lengths = (trained === undefined ? undefined : lookUp(trained)) ??
    (any ? undefined : [blockLength]);
  return {
    noise: "mask",
    blockGrid: "absolute",
    blockStart: "denoised",
    logitShift: 0,
    ...translated({ ...family.facts, ...variant?.facts }, first),
    architecture: architectureOf(config, family),
    tokens: tokensOf(checkpoint, family),
    blockLength: {
      default: blockLength,
      ...(lengths === undefined ? {} : { trained: lengths }),
    },
    defaults: translated({ ...family.defaults, ...variant?.defaults }, first),
  } as unknown as Described; // checked against the manifest's schema by the caller
}

/** The variant that is named, or else the one that the config tells. */
function variantOf(
  { variants, modelType }: Family,
  lookUp: (field: string) => unknown,
  name: string | undefined,
) {
  if (variants === undefined) {
    if (name === undefined) return undefined;
    throw new EngineError("invalid_request", `variant: ${modelType} has none`, {
      param: "variant",
    });
  }
  const names = Object.keys(variants);
  if (name !== undefined && !names.includes(name)) {
    throw new EngineError(
      "invalid_request",
      `variant: ${name} is not one of ${modelType}'s: ${names.join(", ")}`,
      { param: "variant" },
    );
  }
  const told = names.find((one) =>
    Object.entries(variants[one].when).some(([field, values]) => {
      const value = lookUp(field);
      return value !== undefined &&
        (values.length === 0 || values.some((allowed) => allowed === value));
    })
  );
  const chosen = name ?? told;
  if (chosen !== undefined) return variants[chosen];
  const fields = [...new Set(names.flatMap((one) => Object.keys(variants[one].when)))];
  throw new EngineError(
    "checkpoint_unsupported",
    `the config does not tell which training of ${modelType} this is (no ${
      fields.join(", ")
    }); name it: --variant ${names.join(" | ")}`,
    { param: "variant" },
  );
}

function architectureOf(
  config: Checkpoint["config"],
  family: Family,
): Record<string, unknown> {
  const architecture: Record<string, unknown> = {};
  for (const [ours, source] of Object.entries(family.architecture)) {
    const spec: ArchitectureSource = typeof source === "string" ? { from: [source] } : source;
    const { from, quotient, times, default: fallback, optional } = spec;
    const [dividend, divisor] = (quotient ?? []).map((field) => Number(at(config, field)));
    const factors = (times ?? []).map((field) => Number(at(config, field) ?? 1));
    const found = from.map((field) => at(config, field)).find((one) => one !== undefined) ??
      (quotient === undefined ? fallback : dividend / divisor);
    if (found === undefined && optional) continue;
    if (found === undefined || Number.isNaN(found)) {
      throw new EngineError(
        "checkpoint_unsupported",
        `config.json has no field ${[...from, ...(quotient ?? [])].join(" or ")}`,
        { param: from[0] },
      );
    }
    architecture[ours] = typeof found === "number"
      ? factors.reduce((product, factor) => product * factor, found)
      : found;
  }
  return nested(architecture);
}

/** `{ "experts.count": 8 }` as `{ experts: { count: 8 } }`. */
function nested(flat: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [path, value] of Object.entries(flat)) {
    const [head, tail] = path.split(".");
    if (tail === undefined) out[head] = value;
    else out[head] = { ...out[head] as object, [tail]: value }; // only made here
  }
  return out;
}

function tokensOf(
  checkpoint: Checkpoint,
  family: Family,
): Record<string, unknown> {
  const tokenizerConfig = JSON.parse(new TextDecoder().decode(checkpoint.tokenizerConfig));
  const added = addedTokens(checkpoint);
  type Source = Family["tokens"]["mask"][number];
  const { config, generationConfig } = checkpoint;
  const idsOf = (source: Source): unknown[] => {
    if (typeof source !== "string") return [added.get(source.text)];
    const named = tokenizerConfig[source.replace(/_id$/, "")];
    const found = [at(config, source), at(generationConfig, source)].flat();
    return found.some((id) => id !== undefined) ? found : [added.get(named?.content ?? named)];
  };
  const all = (
    sources: readonly Source[],
  ) => [...new Set(sources.flatMap(idsOf).filter((id) => id !== undefined))];
  const needed = (name: "mask" | "eos") => {
    const ids = all(family.tokens[name]);
    if (ids.length > 0) return ids;
    const [field] = family.tokens[name].filter((source) => typeof source === "string");
    throw new EngineError(
      "checkpoint_unsupported",
      `neither config.json nor generation_config.json names ${field}, nor tokenizer_config.json its text`,
      { param: field },
    );
  };
  const tokens: Record<string, unknown> = { mask: needed("mask")[0], eos: needed("eos") };
  const [pad] = all(family.tokens.pad), [bos] = all(family.tokens.bos);
  if (pad !== undefined) tokens.pad = pad;
  if (tokenizerConfig.add_bos_token === true && bos !== undefined) tokens.bos = bos;
  return tokens;
}

/** The values of a table for this checkpoint; what no field says is left out. */
function translated(
  table: Family["defaults"],
  first: (fields: readonly string[]) => unknown,
): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [name, source] of Object.entries(table)) {
    if (typeof source !== "object") {
      out[name] = source;
      continue;
    }
    const value = first(source.from);
    if (value === undefined) continue;
    const ours = source.map === undefined ? value : source.map[String(value)];
    if (ours === undefined) {
      throw new EngineError(
        "checkpoint_unsupported",
        `${source.from.join(" or ")} is ${JSON.stringify(value)}; supported: ` +
          Object.keys(source.map ?? {}).join(", "),
        { param: source.from[0] },
      );
    }
    out[name] = ours;
  }
  return out;
}

/** Ids of the added tokens of tokenizer.json by their text. */
export function addedTokens(checkpoint: Checkpoint): ReadonlyMap<string, number> {
  const json = JSON.parse(new TextDecoder().decode(checkpoint.tokenizer));
  const added: { id: number; content: string }[] = json.added_tokens ?? [];
  return new Map(added.map((token) => [token.content, token.id]));
}

/** Whether a tensor's name is one of the patterns, {i} standing for any layer and {e} for any expert. */
export function fits(name: string, patterns: readonly string[]): boolean {
  return patterns.includes(
    name.replace(/\.\d+\./, ".{i}.").replace(/\.\d+\./, ".{e}."),
  );
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
