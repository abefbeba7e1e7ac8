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
  readonly source: string;
  readonly rows: number;
  readonly columns: number;
  /** How a matrix is stored; vectors are always F32. */
  readonly form: Dtype;
  readonly isVector: boolean;
  readonly sourceRow: (row: number) => number;
  /** the source column of every column, where they differ */
  readonly sourceColumns: Uint32Array | undefined;
}

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
    const rows = isVector ? 1 : shape[0], columns = isVector ? shape[0] : shape[1];
    return {
      name,
      source: from,
      rows,
      columns,
      isVector,
      form: isVector ? "fp32" : storedForm(precision(name), [rows, columns]),
      sourceRow: part === "q.weight" ? groupMajor : same,
      sourceColumns: part === "o.weight" || part === "q.bias"
        ? Uint32Array.from({ length: columns }, (_, column) => groupMajor(column))
        : undefined,
    };
  };
  // A tensor that nobody reads would be a part of the model that is silently left out.
  const known = [...Object.values(family.tensors), ...family.ignored];
  for (const name of checkpoint.tensors.keys()) {
    if (!fits(name, known)) {
      throw new EngineError(
        "checkpoint_unsupported",
        `the checkpoint has the tensor ${name}, which ${family.modelType} does not`,
      );
    }
  }
  return Object.entries(family.tensors)
    .filter(([pattern]) => pattern !== "head.weight" || !a.tiedEmbeddings)
    .flatMap(([pattern, source]) => {
      const layers = pattern.includes("{i}") ? a.layers : 1;
      return Array.from({ length: layers }, (_, layer) => plan(pattern, source, layer));
    });
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
      const { source, rows, columns, form } = tensor;
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
  { source, columns, sourceRow, sourceColumns }: TensorPlan,
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
  if (sourceColumns === undefined) return out;
  const permuted = new Float32Array(out.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < columns; c++) {
      permuted[i * columns + c] = out[i * columns + sourceColumns[c]];
    }
  }
  return permuted;
}
