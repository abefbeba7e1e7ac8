/** Hugging Face folder -> bundle. The weights are streamed: memory stays at a few megabytes plus one tensor's scales. */
import { createHash } from "node:crypto";
import { basename, dirname, resolve } from "node:path";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import { type BundleFile, type Manifest, ManifestSchema, parseManifest } from "../manifest.ts";
import { encodeHeader, tensorBytes } from "../safetensors.ts";
import { type Checkpoint, openCheckpoint, readConfig } from "./checkpoint.ts";
import {
  applyFamily,
  type Family,
  fitsPattern,
  loadFamilies,
  matchFamily,
  sourceName,
} from "./family.ts";
import {
  type BundleTensor,
  bundleTensors,
  groupMajorColumns,
  quantizable,
  rowRuns,
  storedTensors,
} from "./layout.ts";
import { allFinite, decodeFloats, type FloatDtype, quantizeBlocks } from "./quantize.ts";

/** Source bytes read at a time. */
const CHUNK_BYTES = 4 << 20;

/** What a model's own recipe adds to the facts of its checkpoint. */
export const RecipeSchema = v.strictObject({
  name: v.optional(v.string()),
  /** Whether the model was trained with its beginning token before every text. */
  addBos: v.optional(v.boolean()),
  defaults: v.optional(ManifestSchema.entries.defaults),
  samplePrompts: v.optional(ManifestSchema.entries.samplePrompts),
});

/** How the large matrices are stored. */
export type WeightDtype = Manifest["dtype"];

/** How far a conversion is, in bytes of the weights file. */
export interface ConvertProgress {
  readonly tensor: string;
  readonly done: number;
  readonly total: number;
}

/** What to convert, and how. */
export interface ConvertOptions {
  /** Folder of the checkpoint. */
  readonly source: string;
  /** Folder of the bundle; must not exist, be empty, or (with `force`) be a bundle. */
  readonly target: string;
  readonly dtype: WeightDtype;
  /** The bundle's name; by default the recipe's, or else the source folder's. */
  readonly name?: string | undefined;
  readonly recipe?: v.InferOutput<typeof RecipeSchema> | undefined;
  /** Replaces a bundle that stands at `target`. */
  readonly force?: boolean | undefined;
  /** Family descriptions to choose from; by default those of models/families. */
  readonly families?: readonly Family[] | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ConvertProgress) => void) | undefined;
}

/** A tensor with its source. */
interface PlannedTensor {
  readonly tensor: BundleTensor;
  readonly source: string;
  readonly dtype: FloatDtype;
  readonly quantized: boolean;
}

/**
 * Converts a checkpoint. The bundle is written beside `target` and moved there when it is whole: a run that fails or is
 * aborted leaves nothing behind. The same checkpoint always gives the same bytes.
 *
 * @returns the manifest that was written
 * @throws {EngineError} `checkpoint_unsupported` where the checkpoint is broken or of an unknown kind; `invalid_request`
 * where `target` is taken
 */
export async function convertCheckpoint(options: ConvertOptions): Promise<Manifest> {
  const { signal } = options;
  const target = resolve(options.target);
  const occupied = await inspectTarget(target, options.force ?? false);
  const families = options.families ?? await loadFamilies();
  const family = matchFamily(families, await readConfig(options.source));
  using checkpoint = await openCheckpoint(options.source);
  const facts = applyFamily(family, checkpoint, { families, addBos: options.recipe?.addBos });
  const plan = planTensors(family, checkpoint, facts.architecture, options.dtype);

  await Deno.mkdir(dirname(target), { recursive: true });
  const draft = await Deno.makeTempDir({ dir: dirname(target), prefix: `.${basename(target)}-` });
  try {
    const weights = await writeWeights(`${draft}/weights.safetensors`, checkpoint, plan, {
      architecture: facts.architecture,
      signal,
      onProgress: options.onProgress,
    });
    const manifest = parseManifest({
      format: "cinnabar-bundle",
      version: 1,
      name: options.name ?? options.recipe?.name ?? basename(resolve(options.source)),
      architecture: facts.architecture,
      dtype: options.dtype,
      tokens: facts.tokens,
      ...facts.diffusion,
      blockLength: facts.blockLength,
      ...(facts.infill === undefined ? {} : { infill: facts.infill }),
      defaults: options.recipe?.defaults ?? {},
      samplePrompts: options.recipe?.samplePrompts ?? [],
      files: {
        weights,
        tokenizer: await writeFile(draft, "tokenizer.json", checkpoint.tokenizer.bytes),
        tokenizerConfig: await writeFile(
          draft,
          "tokenizer_config.json",
          checkpoint.tokenizerConfig.bytes,
        ),
      },
    });
    const json = new TextEncoder().encode(JSON.stringify(manifest, null, 2) + "\n");
    await writeFile(draft, "model.json", json);
    await Deno.chmod(draft, 0o755); // temporary folders are private; a bundle is not
    signal?.throwIfAborted();
    await moveInto(draft, target, occupied);
    return manifest;
  } finally {
    await Deno.remove(draft, { recursive: true }).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // moved: nothing is left to remove
    });
  }
}

/** Pairs every tensor of the bundle with its source, and refuses a checkpoint that has too few or too many. */
function planTensors(
  family: Family,
  checkpoint: Checkpoint,
  architecture: Manifest["architecture"],
  dtype: WeightDtype,
): PlannedTensor[] {
  const fail = (param: string, message: string) => {
    return new EngineError("checkpoint_unsupported", `${checkpoint.folder}: ${message}`, { param });
  };
  const plan = bundleTensors(architecture).map((tensor): PlannedTensor => {
    const source = sourceName(family, tensor.name);
    if (source === undefined) {
      throw fail(tensor.name, `the family names no source for ${tensor.name}`);
    }
    const info = checkpoint.tensors.get(source);
    if (info === undefined) throw fail(source, `tensor ${source} is missing`);
    if (info.dtype !== "F32" && info.dtype !== "F16" && info.dtype !== "BF16") {
      throw fail(source, `tensor ${source} is ${info.dtype}; supported: F32, F16, BF16`);
    }
    if (info.shape.join() !== tensor.shape.join()) {
      throw fail(
        source,
        `tensor ${source} is [${info.shape}]; config.json implies [${tensor.shape}]`,
      );
    }
    const quantized = dtype === "q8" && quantizable(tensor) &&
      !fitsPattern(tensor.name, family.keepFloat);
    return { tensor, source, dtype: info.dtype, quantized };
  });
  // A tensor that nobody reads is a part of the model that would silently be missing.
  const used = new Set(plan.map((one) => one.source));
  for (const name of checkpoint.tensors.keys()) {
    if (!used.has(name) && !fitsPattern(name, family.ignored)) {
      throw fail(name, `tensor ${name} has no place in this family`);
    }
  }
  return plan;
}

async function writeWeights(
  path: string,
  checkpoint: Checkpoint,
  plan: readonly PlannedTensor[],
  options: Pick<ConvertOptions, "signal" | "onProgress"> & {
    readonly architecture: Manifest["architecture"];
  },
): Promise<BundleFile> {
  const stored = plan.flatMap(({ tensor, quantized }) => storedTensors(tensor, quantized));
  const header = encodeHeader(stored);
  const total = stored.reduce((sum, one) => sum + tensorBytes(one.dtype, one.shape), header.length);
  using file = await Deno.open(path, { write: true, createNew: true });
  const hash = createHash("sha256");
  let done = 0;
  const write = async (bytes: Uint8Array, tensor: string) => {
    options.signal?.throwIfAborted();
    hash.update(bytes);
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    done += bytes.length;
    options.onProgress?.({ tensor, done, total });
  };

  await write(header, "header");
  for (const one of plan) {
    const { name } = one.tensor;
    const scales: Uint8Array[] = [];
    for await (const rows of sourceRows(checkpoint, one, options.architecture)) {
      if (one.quantized) {
        const quantized = quantizeBlocks(rows);
        await write(quantized.values, name);
        scales.push(bytesOf(quantized.scales));
      } else {
        await write(bytesOf(rows), name);
      }
    }
    for (const chunk of scales) await write(chunk, name);
  }
  await file.syncData();
  return { path: basename(path), bytes: total, sha256: hash.digest("hex") };
}

/** A tensor's rows as float32, in the bundle's order, some megabytes at a time. */
async function* sourceRows(
  checkpoint: Checkpoint,
  { tensor, source, dtype }: PlannedTensor,
  architecture: Manifest["architecture"],
): AsyncGenerator<Float32Array> {
  const rowBytes = tensorBytes(dtype, tensor.shape.slice(1));
  const limit = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes));
  for (const { start, count } of rowRuns(tensor, architecture, limit)) {
    const bytes = await checkpoint.read(source, start * rowBytes, count * rowBytes);
    const rows = decodeFloats(bytes, dtype);
    if (!allFinite(rows)) {
      throw new EngineError(
        "checkpoint_unsupported",
        `${checkpoint.folder}: tensor ${source} holds values that are not finite`,
        { param: source },
      );
    }
    yield tensor.order === "query-columns" ? groupMajorColumns(rows, architecture) : rows;
  }
}

async function writeFile(folder: string, path: string, bytes: Uint8Array): Promise<BundleFile> {
  await Deno.writeFile(`${folder}/${path}`, bytes, { createNew: true });
  return { path, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
}

function bytesOf(floats: Float32Array): Uint8Array {
  return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}

/** Whether something stands at `target` that may be replaced. */
async function inspectTarget(target: string, force: boolean): Promise<boolean> {
  const entries: string[] = [];
  try {
    for await (const entry of Deno.readDir(target)) entries.push(entry.name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw new EngineError("invalid_request", `${target} cannot be written to`, {
      param: "target",
      cause: error,
    });
  }
  if (entries.length === 0) return true;
  const isBundle = entries.includes("model.json");
  if (isBundle && force) return true;
  throw new EngineError(
    "invalid_request",
    isBundle
      ? `${target} already holds a bundle; --force replaces it`
      : `${target} is not empty and no bundle; choose another folder`,
    { param: "target" },
  );
}

/** Puts the finished folder in its place; what stood there goes only once the new one is there. */
async function moveInto(draft: string, target: string, occupied: boolean): Promise<void> {
  if (!occupied) return await Deno.rename(draft, target);
  const old = `${draft}-old`;
  await Deno.rename(target, old);
  try {
    await Deno.rename(draft, target);
  } catch (error) {
    await Deno.rename(old, target);
    throw error;
  }
  await Deno.remove(old, { recursive: true });
}
