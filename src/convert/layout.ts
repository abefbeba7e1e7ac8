/**
 * The tensors that a bundle holds, and where the rows of each come from: the one statement of the bundle's tensor format
 * on the writing side (graph/weights.ts reads it).
 */
import { QUANTIZATION_BLOCK } from "../graph/weights.ts";
import type { Architecture } from "../manifest.ts";
import type { SafetensorsDtype } from "../safetensors.ts";

/** How a tensor is rearranged: query heads become group-major in the rows of q, and in the columns of o. */
export type TensorOrder = "plain" | "query-rows" | "query-columns";

/** One tensor before quantisation. */
export interface BundleTensor {
  readonly name: string;
  /** [N, K] of a matrix, [N] of a vector (norm gains and biases, always F32) */
  readonly shape: readonly number[];
  readonly order: TensorOrder;
}

/** One tensor of the weights file. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

/** Every tensor of a model with this architecture, in file order. */
export function bundleTensors(a: Architecture): BundleTensor[] {
  const queryWidth = a.heads * a.headDim;
  const kvWidth = a.kvHeads * a.headDim;
  const tensors: BundleTensor[] = [];
  const add = (name: string, shape: number[], order: TensorOrder = "plain") =>
    tensors.push({ name, shape, order });

  add("embed.weight", [a.vocabSize, a.hiddenSize]);
  for (let i = 0; i < a.layers; i++) {
    const at = (part: string) => `layers.${i}.${part}`;
    add(at("attention_norm"), [a.hiddenSize]);
    add(at("q.weight"), [queryWidth, a.hiddenSize], "query-rows");
    add(at("k.weight"), [kvWidth, a.hiddenSize]);
    add(at("v.weight"), [kvWidth, a.hiddenSize]);
    if (a.qkvBias) {
      add(at("q.bias"), [queryWidth], "query-rows");
      add(at("k.bias"), [kvWidth]);
      add(at("v.bias"), [kvWidth]);
    }
    if (a.qkNorm) {
      add(at("q_norm"), [a.headDim]);
      add(at("k_norm"), [a.headDim]);
    }
    add(at("o.weight"), [a.hiddenSize, queryWidth], "query-columns");
    add(at("ffn_norm"), [a.hiddenSize]);
    add(at("gate.weight"), [a.ffnSize, a.hiddenSize]);
    add(at("up.weight"), [a.ffnSize, a.hiddenSize]);
    add(at("down.weight"), [a.hiddenSize, a.ffnSize]);
  }
  add("final_norm", [a.hiddenSize]);
  if (!a.tiedEmbeddings) add("head.weight", [a.vocabSize, a.hiddenSize]);
  return tensors;
}

/** Whether q8 stores this tensor in 8 bits: matrices whose rows are whole blocks. */
export function quantizable(tensor: BundleTensor): boolean {
  return tensor.shape.length === 2 && tensor.shape[1] % QUANTIZATION_BLOCK === 0;
}

/** What one tensor becomes on disk: itself in F32, or its 8-bit values and their scales. */
export function storedTensors(tensor: BundleTensor, quantized: boolean): StoredTensor[] {
  if (!quantized) return [{ name: tensor.name, dtype: "F32", shape: tensor.shape }];
  const [rows, columns] = tensor.shape;
  const blocks = columns / QUANTIZATION_BLOCK;
  return [
    { name: tensor.name, dtype: "U8", shape: [rows, blocks, QUANTIZATION_BLOCK] },
    { name: tensor.name.replace(/weight$/, "scales"), dtype: "F32", shape: [rows, blocks] },
  ];
}

/**
 * The source heads in group-major order. Checkpoints hold query head `kv * groups + g` as [kvHeads, groups]; a bundle
 * holds [groups, kvHeads], so that attention needs no repeated keys.
 *
 * @example
 * ```ts
 * import { groupMajorHeads } from "./layout.ts";
 * const heads = groupMajorHeads(6, 3);
 * if (heads.join() !== "0,2,4,1,3,5") throw new Error("unreachable");
 * ```
 */
export function groupMajorHeads(heads: number, kvHeads: number): number[] {
  const groups = heads / kvHeads;
  return Array.from(
    { length: heads },
    (_, at) => (at % kvHeads) * groups + Math.floor(at / kvHeads),
  );
}

/** Rows to copy from the source, one after the other. */
export interface RowRun {
  readonly start: number;
  readonly count: number;
}

/**
 * The source rows of a tensor in the order in which a bundle holds them, in runs of at most `limit` rows.
 */
export function* rowRuns(tensor: BundleTensor, a: Architecture, limit: number): Generator<RowRun> {
  const starts = tensor.order === "query-rows"
    ? groupMajorHeads(a.heads, a.kvHeads).map((head) => head * a.headDim)
    : [0];
  const length = tensor.order === "query-rows" ? a.headDim : tensor.shape[0];
  for (const start of starts) {
    for (let at = 0; at < length; at += limit) {
      yield { start: start + at, count: Math.min(limit, length - at) };
    }
  }
}

/** Rows of o [count, heads * headDim] with their columns in group-major order. */
export function groupMajorColumns(rows: Float32Array, a: Architecture): Float32Array {
  const order = groupMajorHeads(a.heads, a.kvHeads);
  const width = a.heads * a.headDim;
  const out = new Float32Array(rows.length);
  for (let row = 0; row < rows.length; row += width) {
    for (let at = 0; at < a.heads; at++) {
      const from = row + order[at] * a.headDim;
      out.set(rows.subarray(from, from + a.headDim), row + at * a.headDim);
    }
  }
  return out;
}
