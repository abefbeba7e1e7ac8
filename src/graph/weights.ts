/**
 * How the tensors of a bundle's weights file appear in a graph. A layout is chosen per backend; what it cannot point at in
 * place is derived once, at load.
 *
 * On disk every matrix is `NAME.weight`: F32 [N, K], or, block-wise quantised, U8 [N, K / 32, 32] (value + 128) with
 * `NAME.scales` F32 [N, K / 32]. Query rows and output columns are group-major (see transformer.ts).
 */
import { EngineError } from "../errors.ts";
import type { SafetensorsHeader, TensorInfo } from "../safetensors.ts";
import type { ExternalRange, GraphBuilder } from "./onnx.ts";

/** Elements that share one scale in a quantised matrix. */
export const QUANTIZATION_BLOCK = 32;
/** Added to a signed 8-bit weight on disk. */
export const ZERO_POINT = 128;

/** File name under which graphs refer to the bundle's weights. */
export const WEIGHTS_FILE = "weights";
const DERIVED_FILE = "derived";

/** How quantised matrices are multiplied: as they are (MatMulNBits) or dequantised to float32 at load. */
export type MatrixForm = "blockwise" | "dequantized";

/** What a backend wants of weights. */
export interface LayoutOptions {
  readonly matrixForm: MatrixForm;
  /** Whether quantised experts can run in QMoE. */
  readonly fusedExperts: boolean;
  /** `accuracy_level` of MatMulNBits: 4 lets a CPU multiply in int8. */
  readonly accuracyLevel: number;
}

/** Bytes that a graph refers to by path. */
export interface ExternalFile {
  readonly path: string;
  readonly data: Uint8Array;
}

/** Quantised experts in a graph. */
export interface ExpertWeights {
  readonly values: string;
  readonly scales: string;
  readonly bits: number;
  /** elements that share a scale */
  readonly block: number;
}

/** Puts the weights of one bundle into a graph. Used once, for one graph. */
export class WeightLayout {
  #derived: Uint8Array[] = [];
  #derivedBytes = 0;
  /** initialisers already added, by name: a tied embedding is read and multiplied from the same bytes */
  #added = new Map<string, string>();

  /**
   * @param file the whole weights file
   */
  constructor(
    readonly header: SafetensorsHeader,
    readonly file: Uint8Array,
    readonly options: LayoutOptions,
  ) {}

  /** The files that the finished graph refers to. */
  externalFiles(): ExternalFile[] {
    const files: ExternalFile[] = [{ path: WEIGHTS_FILE, data: this.file }];
    if (this.#derivedBytes > 0) {
      const data = new Uint8Array(this.#derivedBytes);
      let at = 0;
      for (const chunk of this.#derived) {
        data.set(chunk, at);
        at += chunk.length;
      }
      files.push({ path: DERIVED_FILE, data });
    }
    return files;
  }

  /** A float vector (norm gains, biases). */
  vector(graph: GraphBuilder, name: string): string {
    return this.#once(name, () => {
      const info = this.#info(name);
      return graph.initializer(name, "float32", info.shape, this.#inPlace(info));
    });
  }

  /** Whether the bundle has a tensor of this name. */
  has(name: string): boolean {
    return this.header.tensors.has(name);
  }

  /** `x @ W^T` for x [T, K] and the matrix `name` [N, K], and `+ b` where the bundle has a bias for it. */
  linear(graph: GraphBuilder, x: string, name: string): string {
    const bias = this.has(`${name}.bias`);
    const info = this.#info(`${name}.weight`);
    if (info.dtype === "U8" && this.options.matrixForm === "blockwise") {
      const weight = this.#once(
        `${name}.weight`,
        () => graph.initializer(`${name}.weight`, "uint8", info.shape, this.#inPlace(info)),
      );
      const y = this.#blockwise(graph, x, weight, this.#scaleTensor(graph, name), info.shape);
      return bias ? graph.node("Add", [y, this.vector(graph, `${name}.bias`)]) : y;
    }
    const inputs = [x, this.#float(graph, name, info)];
    if (bias) inputs.push(this.vector(graph, `${name}.bias`));
    return graph.node("Gemm", inputs, { transB: 1 });
  }

  /** Whether a matrix is stored block-wise quantised. */
  isQuantized(name: string): boolean {
    return this.#info(`${name}.weight`).dtype === "U8";
  }

  /** A float tensor as it is. */
  matrix(graph: GraphBuilder, name: string): string {
    const info = this.#info(`${name}.weight`);
    return this.#once(
      `${name}.weight`,
      () => graph.initializer(`${name}.weight`, "float32", info.shape, this.#inPlace(info)),
    );
  }

  /** The quantised matrices of all experts, [E, N, K / block, block] on disk, as QMoE reads them. */
  experts(graph: GraphBuilder, name: string): ExpertWeights {
    const info = this.#info(`${name}.weight`);
    const [count, rows, blocks, block] = info.shape;
    const values = this.#once(
      `${name}.weight`,
      () =>
        graph.initializer(
          `${name}.weight`,
          "uint8",
          [count, rows, blocks * block],
          this.#inPlace(info),
        ),
    );
    return { values, scales: this.#scaleTensor(graph, name), bits: 8, block };
  }

  /** `x @ W^T` for the quantised matrix of one expert. */
  expert(graph: GraphBuilder, x: string, name: string, expert: number): string {
    const part = (tensor: string, type: "uint8" | "float32") =>
      this.#once(`${tensor}.${expert}`, () => {
        const { shape: [count, ...shape], offset, length } = this.#info(tensor);
        const each = length / count;
        const range = { path: WEIGHTS_FILE, offset: offset + expert * each, length: each };
        return graph.initializer(`${tensor}.${expert}`, type, shape, range);
      });
    const [, ...shape] = this.#info(`${name}.weight`).shape;
    const weight = part(`${name}.weight`, "uint8");
    return this.#blockwise(graph, x, weight, part(`${name}.scales`, "float32"), shape);
  }

  /** @param shape [N, K / block, block] */
  #blockwise(
    graph: GraphBuilder,
    x: string,
    weight: string,
    scales: string,
    [rows, blocks, block]: readonly number[],
  ): string {
    return graph.node("MatMulNBits", [x, weight, scales], {
      K: blocks * block,
      N: rows,
      bits: 8,
      block_size: block,
      accuracy_level: this.options.accuracyLevel,
    }, { domain: "com.microsoft" });
  }

  /** Rows of the embedding for int64 ids [B, L]: float32 [B, L, hiddenSize]. */
  embed(graph: GraphBuilder, ids: string): string {
    const info = this.#info("embed.weight");
    if (info.dtype === "U8" && this.options.matrixForm === "blockwise") {
      // the same bytes as the head's matrix, seen as rows
      const table = this.#once("embed.table", () => {
        const dims = [info.shape[0], info.shape[1] * info.shape[2]];
        return graph.initializer("embed.table", "uint8", dims, this.#inPlace(info));
      });
      return graph.node("GatherBlockQuantized", [table, ids, this.#scaleTensor(graph, "embed")], {
        bits: 8,
        block_size: info.shape[2],
        gather_axis: 0,
        quantize_axis: 1,
      }, { domain: "com.microsoft" });
    }
    return graph.node("Gather", [this.#float(graph, "embed", info), ids], { axis: 0 });
  }

  #scaleTensor(graph: GraphBuilder, name: string): string {
    return this.#once(`${name}.scales`, () => {
      const info = this.#info(`${name}.scales`);
      return graph.initializer(`${name}.scales`, "float32", info.shape, this.#inPlace(info));
    });
  }

  #float(graph: GraphBuilder, name: string, info: TensorInfo): string {
    return this.#once(`${name}.weight`, () => {
      if (info.dtype === "F32") {
        return graph.initializer(`${name}.weight`, "float32", info.shape, this.#inPlace(info));
      }
      const dense = dequantize(this.#bytes(info), this.#scales(name), info.shape);
      const range = this.#derive(new Uint8Array(dense.buffer));
      return graph.initializer(`${name}.weight`, "float32", [
        info.shape[0],
        info.shape[1] * info.shape[2],
      ], range);
    });
  }

  #once(name: string, add: () => string): string {
    const known = this.#added.get(name);
    if (known !== undefined) return known;
    const added = add();
    this.#added.set(name, added);
    return added;
  }

  #derive(bytes: Uint8Array): ExternalRange {
    const range = { path: DERIVED_FILE, offset: this.#derivedBytes, length: bytes.length };
    this.#derived.push(bytes);
    this.#derivedBytes += bytes.length;
    return range;
  }

  #inPlace(info: TensorInfo): ExternalRange {
    return { path: WEIGHTS_FILE, offset: info.offset, length: info.length };
  }

  #bytes(info: TensorInfo): Uint8Array {
    return this.file.subarray(info.offset, info.offset + info.length);
  }

  #scales(name: string): Float32Array {
    const bytes = this.#bytes(this.#info(`${name}.scales`));
    return new Float32Array(bytes.slice().buffer);
  }

  #info(name: string): TensorInfo {
    const info = this.header.tensors.get(name);
    if (info === undefined) {
      throw new EngineError("bundle_invalid", `the weights file has no tensor ${name}`);
    }
    return info;
  }
}

/**
 * The float32 matrix [N, K] of a block-wise quantised one.
 *
 * @param values U8 [N, K / block, block], value + 128
 * @param scales F32 [N, K / block]
 */
export function dequantize(
  values: Uint8Array,
  scales: Float32Array,
  shape: readonly number[],
): Float32Array {
  const block = shape[2];
  const out = new Float32Array(values.length);
  for (let b = 0; b < scales.length; b++) {
    const scale = scales[b];
    for (let j = b * block; j < (b + 1) * block; j++) out[j] = (values[j] - ZERO_POINT) * scale;
  }
  return out;
}
