/** From a Hugging Face checkpoint to a bundle: one pass, row by row, written beside the target and renamed at the end. */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import { QUANTIZATION_BLOCK } from "../graph/weights.ts";
import {
  type Architecture,
  type BundleFile,
  type Manifest,
  ManifestSchema,
  parseManifest,
} from "../manifest.ts";
import { encodeHeader, type SafetensorsDtype, tensorBytes } from "../safetensors.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { describe, type Family, familyOf, loadFamilies } from "./family.ts";
import { quantize } from "./quantize.ts";

/** Storage forms that convert can write. */
export const DTYPES = ["q8", "fp32"] as const;
export type Dtype = typeof DTYPES[number];

/** What a model's maker adds to the facts of the checkpoint. */
export const RecipeSchema = v.strictObject({
  name: v.string(),
  defaults: v.optional(ManifestSchema.entries.defaults, {}),
  samplePrompts: v.optional(v.array(v.string()), []),
  /** Texts of the marker tokens, where the model was trained to fill in. */
  infill: v.optional(
    v.strictObject({ prefix: v.string(), suffix: v.string(), middle: v.string() }),
  ),
});

/** How far a conversion has come. */
export interface ConvertProgress {
  readonly tensor: string;
  readonly bytesWritten: number;
  readonly bytesTotal: number;
}

export interface ConvertOptions {
  /** Checkpoint folder. */
  readonly source: string;
  /** Folder of the bundle; must not exist, unless `force` and it is a bundle. */
  readonly target: string;
  readonly dtype: Dtype;
  readonly recipe?: v.InferInput<typeof RecipeSchema>;
  /** Replace the files of a bundle that is there already. */
  readonly force?: boolean;
  readonly onProgress?: (progress: ConvertProgress) => void;
}

/** Elements that are in memory at once, at least one row. */
const CHUNK_ELEMENTS = 4_194_304;

/**
 * Converts a checkpoint. The same input gives the same bytes; a failed or interrupted run leaves no bundle.
 *
 * @throws {EngineError} `checkpoint_unsupported`, naming the fact that differs and what is supported
 */
export async function convertCheckpoint(options: ConvertOptions): Promise<Manifest> {
  const target = resolve(options.target);
  await refuseExisting(target, options.force ?? false);
  const checkpoint = await openCheckpoint(options.source);
  const partial = `${target}.partial-${crypto.randomUUID().slice(0, 8)}`;
  try {
    const family = familyOf(checkpoint.config, await loadFamilies());
    const facts = describe(checkpoint, family);
    const recipe = v.parse(RecipeSchema, options.recipe ?? { name: basename(target) });
    const file = (path: string): BundleFile => ({ path, bytes: 1, sha256: "0".repeat(64) });
    const draft: Manifest = parseManifest({
      format: "cinnabar-bundle",
      version: 1,
      name: recipe.name,
      dtype: options.dtype,
      ...facts,
      ...(recipe.infill === undefined ? {} : { infill: infillIds(recipe.infill, checkpoint) }),
      defaults: recipe.defaults,
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
    const plan = planTensors(checkpoint, family, draft.architecture, options.dtype);
    await writeWeights(join(partial, "weights.safetensors"), checkpoint, plan, options.onProgress);
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

/** One matrix or vector to write: [rows, columns], and where its rows and columns come from. */
interface TensorPlan {
  readonly name: string;
  readonly source: string;
  readonly rows: number;
  readonly columns: number;
  readonly quantized: boolean;
  readonly isVector: boolean;
  readonly sourceRow: (row: number) => number;
  readonly sourceColumn: ((column: number) => number) | undefined;
}

/** All tensors of the bundle, in the order of the file. */
function planTensors(
  checkpoint: Checkpoint,
  family: Family,
  a: Architecture,
  dtype: Dtype,
): TensorPlan[] {
  const groups = a.heads / a.kvHeads;
  /** position in group-major order -> position in the checkpoint's kv-major order */
  const groupMajor = (index: number): number => {
    const head = Math.floor(index / a.headDim);
    const group = Math.floor(head / a.kvHeads), kv = head % a.kvHeads;
    return (kv * groups + group) * a.headDim + index % a.headDim;
  };
  const same = (index: number) => index;
  const q = a.heads * a.headDim, kv = a.kvHeads * a.headDim;
  const shapes: Record<string, readonly [number, number] | readonly [number]> = {
    "embed.weight": [a.vocabSize, a.hiddenSize],
    "head.weight": [a.vocabSize, a.hiddenSize],
    "final_norm": [a.hiddenSize],
    "attention_norm": [a.hiddenSize],
    "ffn_norm": [a.hiddenSize],
    "q_norm": [a.headDim],
    "k_norm": [a.headDim],
    "q.weight": [q, a.hiddenSize],
    "q.bias": [q],
    "k.weight": [kv, a.hiddenSize],
    "k.bias": [kv],
    "v.weight": [kv, a.hiddenSize],
    "v.bias": [kv],
    "o.weight": [a.hiddenSize, q],
    "gate.weight": [a.ffnSize, a.hiddenSize],
    "up.weight": [a.ffnSize, a.hiddenSize],
    "down.weight": [a.hiddenSize, a.ffnSize],
  };
  const plan = (pattern: string, source: string, layer: number): TensorPlan => {
    const part = pattern.replace("layers.{i}.", "");
    const name = pattern.replace("{i}", String(layer));
    const from = source.replace("{i}", String(layer));
    const shape = shapes[part];
    if (shape === undefined) throw new TypeError(`family names the unknown tensor ${pattern}`);
    const info = checkpoint.tensors.get(from);
    if (info === undefined) {
      throw new EngineError("checkpoint_unsupported", `the checkpoint has no tensor ${from}`);
    }
    if (info.shape.join() !== shape.join()) {
      throw new EngineError(
        "checkpoint_unsupported",
        `tensor ${from} has the shape [${info.shape}]; the config asks for [${shape}]`,
      );
    }
    const isVector = shape.length === 1;
    const columns = isVector ? shape[0] : shape[1];
    return {
      name,
      source: from,
      rows: isVector ? 1 : shape[0],
      columns,
      isVector,
      quantized: dtype === "q8" && !isVector && columns % QUANTIZATION_BLOCK === 0 &&
        !family.keepFloat.includes(pattern),
      sourceRow: part === "q.weight" ? groupMajor : same,
      sourceColumn: part === "o.weight" || part === "q.bias" ? groupMajor : undefined,
    };
  };
  return Object.entries(family.tensors)
    .filter(([pattern]) => pattern !== "head.weight" || !a.tiedEmbeddings)
    .flatMap(([pattern, source]) => {
      const layers = pattern.includes("{i}") ? a.layers : 1;
      return Array.from({ length: layers }, (_, layer) => plan(pattern, source, layer));
    });
}

async function writeWeights(
  path: string,
  checkpoint: Checkpoint,
  plan: readonly TensorPlan[],
  onProgress: ConvertOptions["onProgress"],
): Promise<void> {
  const entries = plan.flatMap((tensor) => {
    const { name, rows, columns, quantized, isVector } = tensor;
    const entry = (name: string, dtype: SafetensorsDtype, shape: number[]) => ({
      name,
      dtype,
      shape,
    });
    if (!quantized) return [entry(name, "F32", isVector ? [columns] : [rows, columns])];
    const blocks = columns / QUANTIZATION_BLOCK;
    return [
      entry(name, "U8", [rows, blocks, QUANTIZATION_BLOCK]),
      entry(name.replace(/weight$/, "scales"), "F32", [rows, blocks]),
    ];
  });
  const header = encodeHeader(entries);
  const bytesTotal = entries.reduce((sum, e) => sum + tensorBytes(e.dtype, e.shape), header.length);
  const file = await open(path, "wx");
  let position = 0, bytesWritten = 0;
  const write = async (array: Uint8Array | Float32Array, at: number) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let done = 0; done < bytes.length;) {
      done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
    }
    bytesWritten += bytes.length;
  };
  try {
    await write(header, 0);
    position = header.length;
    for (const tensor of plan) {
      const { rows, columns, quantized } = tensor;
      const scalesAt = position + rows * columns;
      const step = Math.max(1, Math.floor(CHUNK_ELEMENTS / columns));
      for (let row = 0; row < rows; row += step) {
        const count = Math.min(step, rows - row);
        const weights = await readRows(checkpoint, tensor, row, count);
        if (quantized) {
          const { values, scales } = quantize(weights);
          await write(values, position + row * columns);
          await write(scales, scalesAt + row * columns / QUANTIZATION_BLOCK * 4);
        } else {
          await write(weights, position + row * columns * 4);
        }
        onProgress?.({ tensor: tensor.name, bytesWritten, bytesTotal });
      }
      position = quantized
        ? scalesAt + rows * columns / QUANTIZATION_BLOCK * 4
        : position + rows * columns * 4;
    }
  } finally {
    await file.close();
  }
}

/** Rows `row` … `row + count` of the bundle's tensor, float32, in the bundle's order. */
async function readRows(
  checkpoint: Checkpoint,
  { source, columns, sourceRow, sourceColumn }: TensorPlan,
  row: number,
  count: number,
): Promise<Float32Array> {
  const out = new Float32Array(count * columns);
  for (let i = 0; i < count;) {
    // rows that lie together in the source are read together
    const from = sourceRow(row + i);
    let run = 1;
    while (i + run < count && sourceRow(row + i + run) === from + run) run++;
    out.set(await checkpoint.read(source, from * columns, run * columns), i * columns);
    i += run;
  }
  if (sourceColumn === undefined) return out;
  const permuted = new Float32Array(out.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < columns; c++) {
      permuted[i * columns + c] = out[i * columns + sourceColumn(c)];
    }
  }
  return permuted;
}

function infillIds(
  markers: { readonly prefix: string; readonly suffix: string; readonly middle: string },
  checkpoint: Checkpoint,
): NonNullable<Manifest["infill"]> {
  const json = JSON.parse(new TextDecoder().decode(checkpoint.tokenizer));
  const added: { id: number; content: string }[] = json.added_tokens ?? [];
  const idOf = (content: string): number => {
    const token = added.find((token) => token.content === content);
    if (token !== undefined) return token.id;
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
