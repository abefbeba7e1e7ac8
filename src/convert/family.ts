/**
 * Families: how the configuration and the tensor names of a kind of checkpoint map to ours. They are data
 * (models/families/*.json); nothing outside src/convert reads them.
 */
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import { type Architecture, ArchitectureSchema, type Manifest } from "../manifest.ts";
import type { Checkpoint, JsonObject } from "./checkpoint.ts";

const scalar = v.union([v.string(), v.number(), v.boolean(), v.null()]);
/** FILE.FIELD[.FIELD], FILE being config, generation_config or tokenizer_config. */
const path = v.pipe(v.string(), v.regex(/^(config|generation_config|tokenizer_config)\.[\w.]+$/));
const paths = v.array(path);

/** The first field that is present, or else another fact of the architecture, or else a value. */
const FieldSchema = v.strictObject({
  from: paths,
  same: v.optional(v.string()),
  value: v.optional(v.union([v.number(), v.boolean()])),
});

/** Ids under the first field that is present (an id, ids, or a token's text), or else of the first known text. */
const TokenSchema = v.strictObject({ from: paths, contents: v.array(v.string()) });

const FamilySchema = v.strictObject({
  modelType: v.string(),
  architectures: v.pipe(v.array(v.string()), v.minLength(1)),
  /** Values that the runtime implements. An absent field passes; every element of an array must pass. */
  facts: v.array(v.strictObject({ field: path, allowed: v.array(scalar) })),
  architecture: v.strictObject(
    v.entriesFromList(
      // the keys of a schema's entries are its field names
      Object.keys(ArchitectureSchema.entries) as (keyof Architecture)[],
      FieldSchema,
    ),
  ),
  /** Facts that every checkpoint of the family shares; manifest.ts says which ones the runtime implements. */
  diffusion: v.strictObject({
    noise: v.string(),
    attention: v.string(),
    cache: v.string(),
    logitShift: v.number(),
  }),
  tokens: v.strictObject({
    mask: TokenSchema,
    eos: TokenSchema,
    pad: TokenSchema,
    /** Used only where the tokenizer's `add_bos_token`, or the recipe, asks for it. */
    bos: TokenSchema,
  }),
  blockLength: v.strictObject({ default: paths, trained: paths, value: v.number() }),
  infill: v.optional(
    v.strictObject({ prefix: v.string(), suffix: v.string(), middle: v.string() }),
  ),
  /** Our tensor name -> theirs; {i} is the layer. */
  tensors: v.record(v.string(), v.string()),
  /** Their tensors that may be left out (besides those mapped). */
  ignored: v.array(v.string()),
  /** Our tensors that q8 leaves in float32. */
  keepFloat: v.array(v.string()),
});

/** One file of models/families. */
export type Family = v.InferOutput<typeof FamilySchema>;

/** Everything that a family tells about one checkpoint, in the manifest's words. */
export interface CheckpointFacts {
  readonly architecture: Architecture;
  readonly diffusion: Family["diffusion"];
  readonly tokens: Manifest["tokens"];
  readonly blockLength: Manifest["blockLength"];
  readonly infill: Manifest["infill"];
}

/** The folder of family files that ships with the project. */
export const FAMILIES = new URL("../../models/families/", import.meta.url);

/** Parses the content of a family file. */
export function parseFamily(json: unknown, name: string): Family {
  const result = v.safeParse(FamilySchema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new TypeError(`${name}: ${v.getDotPath(issue) ?? "(root)"}: ${issue.message}`);
}

/** Reads every family file of a folder, in the order of their names. */
export async function loadFamilies(folder: URL = FAMILIES): Promise<Family[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(folder)) {
    if (entry.name.endsWith(".json")) names.push(entry.name);
  }
  return await Promise.all(
    names.sort().map(async (name) => {
      return parseFamily(JSON.parse(await Deno.readTextFile(new URL(name, folder))), name);
    }),
  );
}

/**
 * The family of a checkpoint: by `model_type`, and by `architectures` where several share one.
 *
 * @throws {EngineError} `checkpoint_unsupported`, listing the supported model types
 */
export function matchFamily(families: readonly Family[], config: JsonObject): Family {
  const architectures = Array.isArray(config.architectures) ? config.architectures : [];
  const family = families.find((one) =>
    one.modelType === config.model_type &&
    (architectures.length === 0 ||
      architectures.some((name) => one.architectures.includes(name)))
  );
  if (family !== undefined) return family;
  throw unsupported(
    families,
    "config.model_type",
    `model_type ${show(config.model_type)} with architectures ${show(config.architectures)}`,
  );
}

/**
 * Reads a checkpoint's facts.
 *
 * @param options.addBos places the beginning token before every prompt; by default what the tokenizer's configuration says
 * @throws {EngineError} `checkpoint_unsupported` naming the fact, its value and what is supported
 */
export function applyFamily(
  family: Family,
  checkpoint: Checkpoint,
  options: { readonly families: readonly Family[]; readonly addBos?: boolean | undefined },
): CheckpointFacts {
  const look = (field: string) => lookup(checkpoint, field);
  for (const { field, allowed } of family.facts) {
    const value = look(field);
    if (value === undefined) continue;
    const values = Array.isArray(value) ? value : [value];
    if (!values.every((one) => allowed.includes(one))) {
      const wanted = allowed.map(show).join(" or ");
      throw unsupported(options.families, field, `${field} is ${show(value)} (needs ${wanted})`);
    }
  }
  const missing = (what: string, fields: readonly string[]) =>
    unsupported(
      options.families,
      fields[0],
      `${what} is missing (looked for ${fields.join(", ")})`,
    );

  const found: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(family.architecture)) {
    found[name] = firstPresent(look, field.from)?.value ??
      (field.same === undefined ? undefined : found[field.same]) ?? field.value;
    if (found[name] === undefined) throw missing(name, field.from);
  }
  const architecture = v.safeParse(ArchitectureSchema, found);
  if (!architecture.success) {
    const issue = architecture.issues[0];
    const key = v.getDotPath(issue) ?? "";
    throw unsupported(options.families, key, `${key} is ${show(found[key])}: ${issue.message}`);
  }

  const vocabulary = tokenIds(checkpoint.tokenizer.json);
  const ids = (spec: Family["tokens"]["mask"]): number[] => {
    const at = firstPresent(look, spec.from);
    const known = spec.contents.find((text) => vocabulary.has(text));
    const value = at?.value ?? known;
    return (Array.isArray(value) ? value : [value]).flatMap((one) => {
      const text = typeof one === "object" && one !== null && "content" in one ? one.content : one;
      const id = typeof text === "string" ? vocabulary.get(text) : text;
      return typeof id === "number" ? [id] : [];
    });
  };
  const { tokens, infill } = family;
  const [mask] = ids(tokens.mask);
  const eos = ids(tokens.eos);
  if (mask === undefined) throw missing("the mask token", tokens.mask.from);
  if (eos.length === 0) throw missing("the end token", tokens.eos.from);
  const [pad] = ids(tokens.pad);
  const addBos = options.addBos ?? look("tokenizer_config.add_bos_token") === true;
  const [bos] = addBos ? ids(tokens.bos) : [];
  if (addBos && bos === undefined) throw missing("the beginning token", tokens.bos.from);

  return {
    architecture: architecture.output,
    diffusion: family.diffusion,
    tokens: {
      ...(bos === undefined ? {} : { bos }),
      mask,
      eos,
      ...(pad === undefined ? {} : { pad }),
    },
    blockLength: blockLengths(family, look),
    infill: infill === undefined ? undefined : infillIds(infill, vocabulary),
  };
}

/** Fills the layer number into a name pattern of a family. */
export function sourceName(family: Family, target: string): string | undefined {
  const layer = /^layers\.(\d+)\./.exec(target)?.[1];
  const pattern = layer === undefined ? target : target.replace(layer, "{i}");
  return family.tensors[pattern]?.replace("{i}", layer ?? "");
}

/** Whether a name fits one of the patterns, {i} being any layer. */
export function fitsPattern(name: string, patterns: readonly string[]): boolean {
  return patterns.includes(name) || patterns.includes(name.replace(/\.\d+\./, ".{i}."));
}

function blockLengths(family: Family, look: (field: string) => unknown): Manifest["blockLength"] {
  const spec = family.blockLength;
  const asked = firstPresent(look, spec.default)?.value;
  const listed = firstPresent(look, spec.trained)?.value;
  const isLength = (one: unknown): one is number => typeof one === "number";
  const lengths = Array.isArray(listed) ? listed.filter(isLength) : [];
  const preferred = isLength(asked) ? asked : lengths.at(-1) ?? spec.value;
  const trained = [...new Set([...lengths, preferred])].sort((a, b) => a - b);
  return { default: preferred, trained };
}

function infillIds(markers: NonNullable<Family["infill"]>, vocabulary: Map<string, number>) {
  const prefix = vocabulary.get(markers.prefix);
  const suffix = vocabulary.get(markers.suffix);
  const middle = vocabulary.get(markers.middle);
  if (prefix === undefined || suffix === undefined || middle === undefined) return undefined;
  return { prefix, suffix, middle };
}

/** Ids of the added tokens of a tokenizer.json by their text. */
function tokenIds(tokenizer: JsonObject): Map<string, number> {
  const ids = new Map<string, number>();
  if (!Array.isArray(tokenizer.added_tokens)) return ids;
  for (const token of tokenizer.added_tokens) {
    if (typeof token?.content === "string" && typeof token.id === "number") {
      ids.set(token.content, token.id);
    }
  }
  return ids;
}

function firstPresent(look: (field: string) => unknown, fields: readonly string[]) {
  for (const field of fields) {
    const value = look(field);
    if (value !== undefined && value !== null) return { field, value };
  }
  return undefined;
}

function lookup(checkpoint: Checkpoint, field: string): unknown {
  const [file, ...keys] = field.split(".");
  let at: unknown = file === "config"
    ? checkpoint.config
    : file === "generation_config"
    ? checkpoint.generationConfig
    : checkpoint.tokenizerConfig.json;
  for (const key of keys) {
    if (typeof at !== "object" || at === null) return undefined;
    at = (at as JsonObject)[key]; // an object by the check above
  }
  return at;
}

function unsupported(families: readonly Family[], param: string, fact: string): EngineError {
  const types = families.map((family) => family.modelType).join(", ");
  return new EngineError(
    "checkpoint_unsupported",
    `this checkpoint is not supported: ${fact}; supported model types: ${types}`,
    { param },
  );
}

function show(value: unknown): string {
  return value === undefined ? "absent" : JSON.stringify(value);
}
