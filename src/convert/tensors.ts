/** The tensors of a bundle: which there are, where each comes from, and how it is written. */
import { open } from "node:fs/promises";
import { EngineError } from "../errors.ts";
import { storedForm, storedTensors } from "../graph/storage.ts";
import type { Architecture, Dtype } from "../manifest.ts";
import { encodeHeader, tensorBytes } from "../safetensors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { ENCODERS } from "./encode.ts";
import { type Family, fits } from "./family.ts";
import { allFinite } from "./quantize.ts";

/** How far a conversion has come. */
export interface ConvertProgress {
  readonly tensor: string;
  readonly bytesWritten: number;
  readonly bytesTotal: number;
}

/** Elements that are in memory at once, at least one row. */
const CHUNK_ELEMENTS = 1_048_576;

/** One matrix or vector to write: [rows, columns], and where its rows and columns come from. */
export interface TensorPlan {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** How a matrix is stored; vectors are always F32. */
  readonly form: Dtype;
  readonly isVector: boolean;
  /** Where a row lies: the checkpoint's tensor and the row in it. */
  readonly sourceRow: (row: number) => SourceRow;
  /** the source column of every column, where they differ */
  readonly sourceColumns: Uint32Array | undefined;
}

interface SourceRow {
  readonly source: string;
  readonly row: number;
}

/** [rows, columns] of a matrix, [experts, rows, columns] of several (stored as one), or the size of a vector. */
type Shape = readonly number[];

/** The shape of every part of a model, by its name without the layer. */
function shapesOf(a: Architecture): Readonly<Record<string, Shape>> {
  const q = a.heads * a.headDim, kv = a.kvHeads * a.headDim;
  const { count = 0, ffnSize = 0, sharedFfnSize = 0 } = a.experts ?? {};
  const matrices: Record<string, Shape> = {
    embed: [a.vocabSize, a.hiddenSize],
    head: [a.vocabSize, a.hiddenSize],
    q: [q, a.hiddenSize],
    k: [kv, a.hiddenSize],
    v: [kv, a.hiddenSize],
    o: [a.hiddenSize, q],
    gate: [a.ffnSize, a.hiddenSize],
    up: [a.ffnSize, a.hiddenSize],
    down: [a.hiddenSize, a.ffnSize],
    router: [count, a.hiddenSize],
    "experts.gate_up": [count, 2 * ffnSize, a.hiddenSize],
    "experts.down": [count, a.hiddenSize, ffnSize],
    "shared.gate": [sharedFfnSize, a.hiddenSize],
    "shared.up": [sharedFfnSize, a.hiddenSize],
    "shared.down": [a.hiddenSize, sharedFfnSize],
  };
  const vectors: Record<string, number> = {
    final_norm: a.hiddenSize,
    attention_norm: a.hiddenSize,
    ffn_norm: a.hiddenSize,
    q_norm: a.headDim,
    k_norm: a.headDim,
    router_bias: count,
  };
  const shapes: Record<string, Shape> = {};
  for (const [name, shape] of Object.entries(matrices)) {
    shapes[`${name}.weight`] = shape;
    shapes[`${name}.bias`] = [shape[0]];
  }
  for (const [name, size] of Object.entries(vectors)) {
    shapes[name] = shapes[`${name}.bias`] = [size];
  }
  return shapes;
}

const DENSE_PART = /^(gate|up|down)\./;
const MIXTURE_PART = /^(router|experts|shared)[._]/;

/** Layers that have a part. */
function layersOf(pattern: string, { layers, experts }: Architecture): number[] {
  if (!pattern.includes("{i}")) return [0];
  const part = pattern.replace("layers.{i}.", "");
  const dense = experts === undefined ? layers : experts.denseLayers;
  const all = Array.from({ length: layers }, (_, layer) => layer);
  if (MIXTURE_PART.test(part)) return all.slice(dense);
  return DENSE_PART.test(part) ? all.slice(0, dense) : all;
}

const unsupported = (fact: string) => new EngineError("checkpoint_unsupported", fact);

/**
 * All tensors of the bundle, in the order of the file.
 *
 * @param precision the form that a matrix should have; storedForm() says what becomes of one that cannot
 */
export function planTensors(
  checkpoint: Checkpoint,
  family: Family,
  a: Architecture,
  precision: (name: string) => Dtype,
): TensorPlan[] {
  const groups = a.heads / a.kvHeads;
  const q = a.heads * a.headDim, kv = a.kvHeads * a.headDim;
  const shapes = shapesOf(a);
  /** first row of a part in a fused matrix of query, key and value, and all of its rows */
  const fused = { q: 0, k: q, v: q + kv };
  /** position in group-major order -> position in the checkpoint's kv-major order */
  const groupMajor = (index: number): number => {
    const head = Math.floor(index / a.headDim);
    const group = Math.floor(head / a.kvHeads), at = head % a.kvHeads;
    return (at * groups + group) * a.headDim + index % a.headDim;
  };
  const checkShape = (source: string, shape: Shape) => {
    const info = checkpoint.tensors.get(source);
    if (info === undefined) throw unsupported(`the checkpoint has no tensor ${source}`);
    if (info.shape.join() === shape.join()) return;
    throw unsupported(
      `tensor ${source} has the shape [${info.shape}]; the config asks for [${shape}]`,
    );
  };
  /** Where the rows of a part lie, each source checked. */
  const sourceRows = (entry: Family["tensors"][string], layer: number, shape: Shape) => {
    const inLayer = (name: string) => name.replace("{i}", String(layer));
    const columns = shape[shape.length - 1];
    if (typeof entry !== "string" && "part" in entry) {
      const source = inLayer(entry.from), from = fused[entry.part];
      checkShape(source, [q + 2 * kv, columns]);
      return (row: number) => ({ source, row: from + row });
    }
    if (shape.length < 3) {
      const source = inLayer(sourcesOf(entry)[0]);
      checkShape(source, shape);
      return (row: number) => ({ source, row });
    }
    const names = sourcesOf(entry), [count, perExpert] = shape, each = perExpert / names.length;
    const sources = Array.from(
      { length: count },
      (_, expert) => names.map((name) => inLayer(name).replace("{e}", String(expert))),
    );
    sources.flat().forEach((source) => checkShape(source, [each, columns]));
    return (index: number) => {
      const expert = Math.floor(index / perExpert), within = index % perExpert;
      const source = sources[expert][within % names.length];
      return { source, row: Math.floor(within / names.length) };
    };
  };
  const plan = (pattern: string, layer: number): TensorPlan => {
    const part = pattern.replace("layers.{i}.", "");
    const shape = shapes[part];
    if (shape === undefined) throw new TypeError(`family names the unknown tensor ${pattern}`);
    const columns = shape[shape.length - 1];
    const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
    const rowOf = sourceRows(family.tensors[pattern], layer, shape);
    const name = pattern.replace("{i}", String(layer));
    const isVector = shape.length === 1;
    return {
      name,
      rows,
      columns,
      isVector,
      form: isVector ? "fp32" : storedForm(precision(name), [rows, columns]),
      sourceRow: part === "q.weight" ? (row) => rowOf(groupMajor(row)) : rowOf,
      sourceColumns: part === "o.weight" || part === "q.bias"
        ? Uint32Array.from({ length: columns }, (_, column) => groupMajor(column))
        : undefined,
    };
  };
  refuseUnknown(checkpoint, family);
  return Object.keys(family.tensors)
    .filter((pattern) => !(pattern.startsWith("head.") && a.tiedEmbeddings))
    .filter((pattern) => !family.optional.includes(pattern) || has(checkpoint, family, pattern))
    .flatMap((pattern) => layersOf(pattern, a).map((layer) => plan(pattern, layer)));
}

/** The checkpoint's tensors that one of ours is made from. */
function sourcesOf(entry: Family["tensors"][string]): readonly string[] {
  if (typeof entry === "string") return [entry];
  return "gate" in entry ? [entry.gate, entry.up] : [entry.from];
}

/** Whether a checkpoint has an optional tensor, in any layer. */
function has(checkpoint: Checkpoint, family: Family, pattern: string): boolean {
  const sources = sourcesOf(family.tensors[pattern]);
  return [...checkpoint.tensors.keys()].some((name) => fits(name, sources));
}

/** A tensor that nobody reads would be a part of the model that is silently left out. */
function refuseUnknown(checkpoint: Checkpoint, family: Family): void {
  const known = Object.values(family.tensors).flatMap(sourcesOf);
  for (const name of checkpoint.tensors.keys()) {
    if (fits(name, [...known, ...family.ignored])) continue;
    throw unsupported(`the checkpoint has the tensor ${name}, which ${family.modelType} does not`);
  }
}

/** Writes the weights file, a few megabytes at a time. */
export async function writeWeights(
  path: string,
  checkpoint: Checkpoint,
  plan: readonly TensorPlan[],
  { onProgress, signal }: {
    readonly onProgress?: (progress: ConvertProgress) => void;
    readonly signal?: AbortSignal;
  },
): Promise<void> {
  const stored = plan.map(({ name, rows, columns, form, isVector }) =>
    isVector
      ? [{ name, dtype: "F32" as const, shape: [columns] }]
      : storedTensors(name.replace(/\.weight$/, ""), form, [rows, columns])
  );
  const header = encodeHeader(stored.flat());
  const bytesTotal = stored.flat().reduce(
    (sum, { dtype, shape }) => sum + tensorBytes(dtype, shape),
    header.length,
  );
  const file = await open(path, "wx");
  let position = 0, bytesWritten = 0;
  const write = async (array: ArrayBufferView, at: number) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let done = 0; done < bytes.length;) {
      done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
    }
    bytesWritten += bytes.length;
  };
  try {
    await write(header, 0);
    position = header.length;
    for (const [index, tensor] of plan.entries()) {
      const { rows, columns, form } = tensor;
      // where each stored tensor of the matrix begins, and the bytes of one row in it
      const parts = stored[index].map(({ dtype, shape }) => {
        const bytes = tensorBytes(dtype, shape), start = position;
        position += bytes;
        return { start, rowBytes: bytes / rows };
      });
      const step = Math.max(1, Math.floor(CHUNK_ELEMENTS / columns));
      for (let row = 0; row < rows; row += step) {
        signal?.throwIfAborted();
        const count = Math.min(step, rows - row);
        const weights = await readRows(checkpoint, tensor, row, count);
        const { source } = tensor.sourceRow(row);
        if (!allFinite(weights)) {
          throw new EngineError(
            "checkpoint_unsupported",
            `tensor ${source} holds numbers that are not finite`,
          );
        }
        for (const [part, bytes] of ENCODERS[form]({ weights, columns, source }).entries()) {
          await write(bytes, parts[part].start + row * parts[part].rowBytes);
        }
        onProgress?.({ tensor: tensor.name, bytesWritten, bytesTotal });
      }
    }
  } finally {
    await file.close();
  }
}

/** Rows `row` … `row + count` of the bundle's tensor, float32, in the bundle's order. */
async function readRows(
  checkpoint: Checkpoint,
  { columns, sourceRow, sourceColumns }: TensorPlan,
  row: number,
  count: number,
): Promise<Float32Array> {
  const out = new Float32Array(count * columns);
  for (let i = 0; i < count;) {
    // rows that lie together in the source are read together
    const from = sourceRow(row + i);
    let run = 1;
    while (i + run < count) {
      const next = sourceRow(row + i + run);
      if (next.source !== from.source || next.row !== from.row + run) break;
      run++;
    }
    out.set(await checkpoint.read(from.source, from.row * columns, run * columns), i * columns);
    i += run;
  }
  if (sourceColumns === undefined) return out;
  const permuted = new Float32Array(out.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < columns; c++) {
      permuted[i * columns + c] = out[i * columns + sourceColumns[c]];
    }
  }
  return permuted;
}
