/** From a Hugging Face checkpoint to a bundle: one pass, row by row, written beside the target and renamed at the end. */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import {
  type BundleFile,
  type Dtype,
  type Manifest,
  ManifestSchema,
  parseManifest,
} from "../manifest.ts";
import { chatTemplateOf } from "./chat_template.ts";
import { type Checkpoint, openCheckpoint, readConfig } from "./checkpoint.ts";
import { addedTokens, describe } from "./describe.ts";
import { type Family, familyOf, loadFamilies } from "./family.ts";
import { checkPatterns, choosePrecision, PrecisionSchema } from "./precision.ts";
import { type ConvertProgress, planTensors, writeWeights } from "./tensors.ts";

/** What a model's maker adds to the facts of the checkpoint. */
export const RecipeSchema = v.strictObject({
  name: v.string(),
  defaults: v.optional(ManifestSchema.entries.defaults, {}),
  /** Where blocks begin, if the model was not trained as its family is decoded. */
  blockGrid: v.optional(ManifestSchema.entries.blockGrid),
  samplePrompts: v.optional(v.array(v.string()), []),
  /** Texts of the marker tokens, where the model was trained to fill in. */
  infill: v.optional(
    v.strictObject({ prefix: v.string(), suffix: v.string(), middle: v.string() }),
  ),
  /** Matrices that are stored in another form than the one asked for; counts before the family's table. */
  precision: v.optional(PrecisionSchema, {}),
});

/** What to convert, and how. */
export interface ConvertOptions {
  /** Checkpoint folder. */
  readonly source: string;
  /** Folder of the bundle; must not exist, unless `force` and it is a bundle. */
  readonly target: string;
  readonly dtype: Dtype;
  /** Which training of its family the checkpoint is, where the config does not tell. */
  readonly variant?: string | undefined;
  /** The model's name; else the recipe's, else the target folder's. */
  readonly name?: string | undefined;
  readonly recipe?: v.InferInput<typeof RecipeSchema> | undefined;
  /** Replace the files of a bundle that is there already. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: ConvertProgress) => void;
}

/**
 * Converts a checkpoint. The same input gives the same bytes; a failed or interrupted run leaves no bundle.
 *
 * @throws {EngineError} `checkpoint_unsupported`, naming the fact that differs and what is supported
 */
export async function convertCheckpoint(options: ConvertOptions): Promise<Manifest> {
  const target = resolve(options.target);
  const family = await checkFirst(options);
  const checkpoint = await openCheckpoint(options.source);
  const partial = `${target}.partial-${crypto.randomUUID().slice(0, 8)}`;
  try {
    const facts = describe(checkpoint, family, options.variant);
    const chatTemplate = chatTemplateOf(checkpoint);
    const recipe = parseRecipe(options.recipe ?? { name: basename(target) });
    const file = (path: string): BundleFile => ({ path, bytes: 1, sha256: "0".repeat(64) });
    const draft: Manifest = parseManifest({
      format: "cinnabar-bundle",
      version: 1,
      name: options.name ?? recipe.name,
      dtype: options.dtype,
      ...facts,
      ...(recipe.blockGrid === undefined ? {} : { blockGrid: recipe.blockGrid }),
      ...(recipe.infill === undefined ? {} : { infill: infillIds(recipe.infill, checkpoint) }),
      ...(chatTemplate === undefined ? {} : { chatTemplate }),
      defaults: { ...facts.defaults, ...recipe.defaults },
      samplePrompts: recipe.samplePrompts,
      files: {
        weights: file("weights.safetensors"),
        tokenizer: file("tokenizer.json"),
        tokenizerConfig: file("tokenizer_config.json"),
      },
    });
    await mkdir(partial, { recursive: true });
    await writeFile(join(partial, "tokenizer.json"), checkpoint.tokenizer);
    await writeFile(join(partial, "tokenizer_config.json"), checkpoint.tokenizerConfig);
    const { layers } = draft.architecture;
    const tables = [recipe.precision, family.precision];
    const precision = choosePrecision(options.dtype, { tables, layers });
    const plan = planTensors(checkpoint, family, draft.architecture, precision);
    const names = plan.filter((tensor) => !tensor.isVector).map((tensor) => tensor.name);
    checkPatterns(recipe.precision, { names, layers });
    await writeWeights(join(partial, "weights.safetensors"), checkpoint, plan, options);
    const manifest: Manifest = {
      ...draft,
      files: {
        weights: await describeFile(partial, "weights.safetensors"),
        tokenizer: await describeFile(partial, "tokenizer.json"),
        tokenizerConfig: await describeFile(partial, "tokenizer_config.json"),
      },
    };
    await writeFile(join(partial, "model.json"), JSON.stringify(manifest, null, 2) + "\n");
    await moveInto(partial, target);
    return manifest;
  } finally {
    await checkpoint.close();
    await rm(partial, { recursive: true, force: true });
  }
}

/**
 * Refuses what the target and config.json alone rule out, before weights are read or downloaded.
 *
 * @throws {EngineError} as convertCheckpoint()
 */
export async function checkFirst(
  { source, target, force }: Pick<ConvertOptions, "source" | "target" | "force">,
): Promise<Family> {
  await refuseExisting(resolve(target), force ?? false);
  return familyOf(await readConfig(source), await loadFamilies());
}

function parseRecipe(json: unknown): v.InferOutput<typeof RecipeSchema> {
  const result = v.safeParse(RecipeSchema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue) ?? "(root)";
  throw new EngineError("invalid_request", `recipe: ${field}: ${issue.message}`, { param: field });
}

function infillIds(
  markers: { readonly prefix: string; readonly suffix: string; readonly middle: string },
  checkpoint: Checkpoint,
): NonNullable<Manifest["infill"]> {
  const added = addedTokens(checkpoint);
  const idOf = (content: string): number => {
    const id = added.get(content);
    if (id !== undefined) return id;
    throw new EngineError("checkpoint_unsupported", `tokenizer.json has no added token ${content}`);
  };
  return {
    prefix: idOf(markers.prefix),
    suffix: idOf(markers.suffix),
    middle: idOf(markers.middle),
  };
}

async function describeFile(folder: string, path: string): Promise<BundleFile> {
  const hash = createHash("sha256");
  const file = await open(join(folder, path));
  try {
    for await (const chunk of file.createReadStream({ autoClose: false })) hash.update(chunk);
  } finally {
    await file.close();
  }
  return { path, bytes: (await stat(join(folder, path))).size, sha256: hash.digest("hex") };
}

/**
 * Moves a finished bundle into place. Other files of an existing bundle's folder (its card, its recipe) stay; model.json goes
 * first and comes last, so that a half-replaced bundle is none.
 */
async function moveInto(partial: string, target: string): Promise<void> {
  await mkdir(target, { recursive: true });
  await rm(join(target, "model.json"), { force: true });
  const files = (await readdir(partial)).filter((name) => name !== "model.json");
  for (const name of [...files, "model.json"]) {
    await rename(join(partial, name), join(target, name));
  }
}

async function refuseExisting(target: string, force: boolean): Promise<void> {
  const entries: string[] = await readdir(target).catch(() => []); // absent: nothing to refuse
  if (entries.length === 0) return;
  const isBundle = entries.includes("model.json") &&
    (await readFile(join(target, "model.json"), "utf8")).includes('"cinnabar-bundle"');
  if (isBundle && force) return;
  throw new EngineError(
    "invalid_request",
    isBundle
      ? `${target} is a bundle already; --force replaces it`
      : `${target} is not empty and not a bundle`,
    { param: "target" },
  );
}
