/** What a checkpoint is: the facts of its manifest, read through its family. */
import { EngineError } from "../errors.ts";
import type { Manifest } from "../manifest.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { Family } from "./family.ts";

type ArchitectureSource = Exclude<Family["architecture"][string], string>;

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

/** The value under a dotted path, undefined where there is none or null. */
function at(json: unknown, path: string): unknown {
  let value = json;
  for (const key of path.split(".")) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[key]; // an object by the check above
  }
  return value ?? undefined;
}
