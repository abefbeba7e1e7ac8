/**
 * How the tensors of a bundle's weights file appear in a graph. A layout is chosen per backend; what it cannot point at in
 * place is derived once, at load. storage.ts says how the file holds a matrix; query rows and output columns are group-major
 * (see transformer.ts).
 */
import { EngineError } from "../errors.ts";
import type { Dtype } from "../manifest.ts";
import type { SafetensorsHeader, TensorInfo } from "../safetensors.ts";
import { DATA_TYPE, type DataType, type GraphBuilder } from "./onnx.ts";
import { dequantize4, dequantize8, formOf, QUANTIZATION_BLOCK, ZERO_POINT } from "./storage.ts";

const MICROSOFT = { domain: "com.microsoft" } as const;

/** File name under which graphs refer to the bundle's weights. */
export const WEIGHTS_FILE = "weights";

/**
 * How a backend multiplies each quantised form: from the file's bytes with one scale for each block (MatMulNBits), from the
 * file's bytes in whole numbers (MatMulInteger), or dequantised to float32 at load.
 */
export interface MatrixForms {
  readonly q4: "blockwise" | "dequantized";
  readonly q8: "blockwise" | "dequantized";
  readonly w8a8: "integer" | "blockwise";
}

/** What a backend wants of weights. */
export interface LayoutOptions {
  readonly matrixForms: MatrixForms;
  /** Whether quantised experts can run in QMoE. */
  readonly fusedExperts: boolean;
  /** `accuracy_level` of MatMulNBits: 4 lets a CPU multiply in int8. */
  readonly accuracyLevel: number;
}

/** Quantised experts in a graph, as QMoE reads them. */
export interface ExpertWeights {
  readonly values: string;
  readonly scales: string;
  /** Absent where the zero is in the middle. */
  readonly zeros: string | undefined;
  readonly bits: number;
  /** Elements that share a scale; 0: a whole row does. */
  readonly block: number;
}

/** Bytes that a graph refers to by path. */
export interface ExternalFile {
  readonly path: string;
  readonly data: Uint8Array;
}

/** A matrix [N, K] of the weights file. */
interface Matrix {
  readonly name: string;
  readonly info: TensorInfo;
  readonly form: Dtype;
  readonly shape: readonly [number, number];
  readonly use: "blockwise" | "integer" | "float";
  /** Where it is one of several that are stored as one. */
  readonly part?: Part;
}

/** One of `count` equal runs of rows. */
interface Part {
  readonly index: number;
  readonly count: number;
}

/** Activations in whole numbers: uint8 [T, K] around 128, float32 [T, 1]. */
interface QuantizedRows {
  readonly values: string;
  readonly scales: string;
}

/** Puts the weights of one bundle into a graph. Used once, for one graph. */
export class WeightLayout {
  #derived: ExternalFile[] = [];
  /** values already added, by name: a tied embedding is read and multiplied from the same bytes */
  #added = new Map<string, string>();
  /** activations already quantised, by name: one input meets several matrices */
  #rows = new Map<string, QuantizedRows>();

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
    return [{ path: WEIGHTS_FILE, data: this.file }, ...this.#derived];
  }

  /** A float vector (norm gains, biases). */
  vector(graph: GraphBuilder, name: string): string {
    return this.#inPlace(graph, name, this.#info(name).shape);
  }

  /** Whether the bundle has a tensor of this name. */
  has(name: string): boolean {
    return this.header.tensors.has(name);
  }

  /** `x @ W^T` for x [T, K] and the matrix `name` [N, K], and `+ b` where the bundle has a bias for it. */
  linear(graph: GraphBuilder, x: string, name: string): string {
    const matrix = this.#matrix(name);
    const bias = `${name}.bias`;
    const add = this.has(bias) ? this.vector(graph, bias) : undefined;
    if (matrix.use === "float") {
      const inputs = [x, this.#float(graph, matrix), ...(add === undefined ? [] : [add])];
      return graph.node("Gemm", inputs, { transB: 1 });
    }
    const y = matrix.use === "integer"
      ? this.#multiplyInteger(graph, x, matrix)
      : this.#multiplyBlocks(graph, x, matrix);
    return add === undefined ? y : graph.node("Add", [y, add]);
  }

  /** Rows of the embedding for int64 ids [B, L]: float32 [B, L, hiddenSize]. */
  embed(graph: GraphBuilder, ids: string): string {
    const matrix = this.#matrix("embed");
    if (matrix.use === "float") {
      return graph.node("Gather", [this.#float(graph, matrix), ids], { axis: 0 });
    }
    const rows = matrix.shape[0];
    if (matrix.use === "integer") {
      const levels = graph.node("Cast", [
        graph.node("Gather", [this.#inPlace(graph, "embed.weight", matrix.shape), ids], {
          axis: 0,
        }),
      ], { to: DATA_TYPE.float32 });
      const centred = graph.node("Sub", [levels, graph.constant("float32", [ZERO_POINT], [])]);
      const scales = graph.node("Gather", [
        this.#inPlace(graph, "embed.scales", [rows, 1], { name: "embed.columnOfScales" }),
        ids,
      ], { axis: 0 });
      return graph.node("Mul", [centred, scales]);
    }
    // the same bytes as the head's matrix, seen as rows
    const table = [rows, matrix.info.length / rows];
    return graph.node("GatherBlockQuantized", [
      this.#inPlace(graph, "embed.weight", table, { name: "embed.table" }),
      ids,
      ...this.#scales(graph, matrix),
    ], {
      bits: matrix.form === "q4" ? 4 : 8,
      block_size: QUANTIZATION_BLOCK,
      gather_axis: 0,
      quantize_axis: 1,
    }, MICROSOFT);
  }

  /** How the matrix is stored. */
  form(name: string): Dtype {
    return this.#matrix(name).form;
  }

  /** Float matrices of `count` experts, stored as one: float32 [count, N, K]. */
  expertMatrices(graph: GraphBuilder, name: string, count: number): string {
    const matrix = this.#matrix(name);
    const [rows, columns] = matrix.shape;
    const dims = graph.constant("int64", [count, rows / count, columns]);
    return graph.node("Reshape", [this.#float(graph, matrix), dims]);
  }

  /** Quantised matrices of `count` experts, stored as one, as QMoE reads them from the file's bytes. */
  fusedExperts(graph: GraphBuilder, name: string, count: number): ExpertWeights {
    const { form, info, shape: [rows, columns] } = this.#matrix(name);
    const each = rows / count;
    const seen = (tensor: string, width: number) =>
      this.#inPlace(graph, `${name}.${tensor}`, width === 0 ? [count, each] : [count, each, width]);
    const blocks = columns / QUANTIZATION_BLOCK;
    return {
      values: seen("weight", info.length / rows),
      scales: seen("scales", form === "w8a8" ? 0 : blocks),
      zeros: form === "q4" ? seen("zeros", blocks / 2) : undefined,
      bits: form === "q4" ? 4 : 8,
      block: form === "w8a8" ? 0 : QUANTIZATION_BLOCK,
    };
  }

  /** `x @ W^T` for the quantised matrix of one of `count` experts. */
  expert(
    graph: GraphBuilder,
    x: string,
    name: string,
    { index, count }: { readonly index: number; readonly count: number },
  ): string {
    const whole = this.#matrix(name);
    const rows = whole.shape[0] / count;
    const part: Matrix = { ...whole, shape: [rows, whole.shape[1]], part: { index, count } };
    return this.#multiplyBlocks(graph, x, part);
  }

  /** MatMulNBits over the file's bytes. */
  #multiplyBlocks(graph: GraphBuilder, x: string, matrix: Matrix): string {
    const { name, info, shape: [rows, columns] } = matrix;
    const blocks = columns / QUANTIZATION_BLOCK;
    const bytes = info.length / (matrix.part?.count ?? 1);
    const dims = [rows, blocks, bytes / rows / blocks];
    return graph.node("MatMulNBits", [
      x,
      this.#inPlace(graph, `${name}.weight`, dims, { part: matrix.part }),
      ...this.#scales(graph, matrix),
    ], {
      K: columns,
      N: rows,
      bits: matrix.form === "q4" ? 4 : 8,
      block_size: QUANTIZATION_BLOCK,
      accuracy_level: this.options.accuracyLevel,
    }, MICROSOFT);
  }

  /** A scale for each block of a matrix and, for q4, its zero. */
  #scales(graph: GraphBuilder, { name, form, shape, part }: Matrix): string[] {
    const dims = [shape[0], shape[1] / QUANTIZATION_BLOCK];
    if (form === "w8a8") return [this.#repeatedScales(graph, name, dims, part)];
    const scales = this.#inPlace(graph, `${name}.scales`, dims, { part });
    if (form === "q8") return [scales];
    return [scales, this.#inPlace(graph, `${name}.zeros`, [dims[0], dims[1] / 2], { part })];
  }

  /** The scale of each row, once for each of its blocks. */
  #repeatedScales(
    graph: GraphBuilder,
    name: string,
    [rows, blocks]: readonly number[],
    part: Part | undefined,
  ): string {
    const ours = part === undefined ? `${name}.scales` : `${name}.scales.${part.index}`;
    return this.#once(ours, () => {
      const repeated = new Float32Array(rows * blocks);
      const from = (part?.index ?? 0) * rows;
      this.#floats(`${name}.scales`).subarray(from, from + rows).forEach((scale, row) => {
        repeated.fill(scale, row * blocks, (row + 1) * blocks);
      });
      return this.#derive(graph, ours, [rows, blocks], repeated);
    });
  }

  /**
   * The product of whole numbers: every row of x becomes int8 with a scale of its own, largest magnitude / 127.
   *
   * Both sides are unsigned with zero point 128: signed activations have no fast kernel, and with unsigned activations and
   * signed weights the CPUs without VNNI saturate sums of two products (measured: 20 % off).
   */
  #multiplyInteger(graph: GraphBuilder, x: string, { name, shape }: Matrix): string {
    const { values, scales } = this.#quantizeRows(graph, x);
    // folded into a copy when the session is created
    const weight = this.#once(
      `${name}.transposed`,
      () =>
        graph.node("Transpose", [this.#inPlace(graph, `${name}.weight`, shape)], { perm: [1, 0] }),
    );
    const zero = graph.constant("uint8", [ZERO_POINT], []);
    const y = graph.node(
      "MatMulIntegerToFloat",
      [
        values,
        weight,
        graph.constant("float32", [1], []),
        this.#inPlace(graph, `${name}.scales`, [shape[0]]),
        zero,
        zero,
      ],
      {},
      MICROSOFT,
    );
    return graph.node("Mul", [y, scales]);
  }

  /** Rows of x [T, K] as uint8 around 128, and their scales [T, 1]; once for all matrices that x meets. */
  #quantizeRows(graph: GraphBuilder, x: string): QuantizedRows {
    const known = this.#rows.get(x);
    if (known !== undefined) return known;
    const most = graph.node("ReduceMax", [
      graph.node("Abs", [x]),
      graph.constant("int64", [-1]),
    ], { keepdims: 0 });
    const scale = graph.node("Max", [ // a row of zeros must not divide by zero
      graph.node("Div", [most, graph.constant("float32", [127], [])]),
      graph.constant("float32", [1e-30], []),
    ]);
    const zeros = graph.node("Expand", [
      graph.constant("uint8", [ZERO_POINT]),
      graph.node("Shape", [scale]),
    ]);
    const rows = {
      values: graph.node("QuantizeLinear", [x, scale, zeros], { axis: 0 }),
      scales: graph.node("Unsqueeze", [scale, graph.constant("int64", [1])]),
    };
    this.#rows.set(x, rows);
    return rows;
  }

  /** The matrix as a float32 value of the graph. */
  #float(graph: GraphBuilder, { name, form, shape }: Matrix): string {
    return this.#once(`${name}.float`, () => {
      const weight = `${name}.weight`;
      if (form === "fp32") return this.#inPlace(graph, weight, shape);
      if (form === "fp16") { // folded into a copy when the session is created
        return graph.node("Cast", [this.#inPlace(graph, weight, shape)], { to: DATA_TYPE.float32 });
      }
      const values = this.#bytes(weight), scales = this.#floats(`${name}.scales`);
      const dense = form === "q4"
        ? dequantize4(values, scales, this.#bytes(`${name}.zeros`))
        : dequantize8(values, scales);
      return this.#derive(graph, weight, shape, dense);
    });
  }

  #matrix(name: string): Matrix {
    const info = this.#info(`${name}.weight`);
    const { form, shape } = formOf(name, info);
    const use = form === "fp32" || form === "fp16" ? "float" : this.options.matrixForms[form];
    return { name, info, form, shape, use: use === "dequantized" ? "float" : use };
  }

  /**
   * A tensor of the file, or the rows of one part of it; under its own name or another where the same bytes are seen in two
   * shapes.
   */
  #inPlace(
    graph: GraphBuilder,
    tensor: string,
    dims: readonly number[],
    { part, name = part === undefined ? tensor : `${tensor}.${part.index}` }: {
      readonly part?: Part | undefined;
      readonly name?: string;
    } = {},
  ): string {
    return this.#once(name, () => {
      const { dtype, offset, length } = this.#info(tensor);
      const type: DataType | undefined = ELEMENT[dtype];
      if (type === undefined) {
        throw new EngineError("bundle_invalid", `the weights file has ${tensor} as ${dtype}`);
      }
      const { index, count } = part ?? { index: 0, count: 1 };
      const bytes = length / count;
      const range = { path: WEIGHTS_FILE, offset: offset + index * bytes, length: bytes };
      return graph.initializer(name, type, dims, range);
    });
  }

  #derive(graph: GraphBuilder, name: string, dims: readonly number[], data: Float32Array): string {
    // a file of its own, because joining them would hold them twice
    const path = `derived ${name}`;
    this.#derived.push({ path, data: new Uint8Array(data.buffer) });
    return graph.initializer(name, "float32", dims, { path, offset: 0, length: data.byteLength });
  }

  #once(name: string, add: () => string): string {
    const known = this.#added.get(name);
    if (known !== undefined) return known;
    const added = add();
    this.#added.set(name, added);
    return added;
  }

  #bytes(name: string): Uint8Array {
    const { offset, length } = this.#info(name);
    return this.file.subarray(offset, offset + length);
  }

  #floats(name: string): Float32Array {
    return new Float32Array(this.#bytes(name).slice().buffer);
  }

  #info(name: string): TensorInfo {
    const info = this.header.tensors.get(name);
    if (info === undefined) {
      throw new EngineError("bundle_invalid", `the weights file has no tensor ${name}`);
    }
    return info;
  }
}

/** Element types of a weights file as ONNX has them. */
const ELEMENT: Readonly<Partial<Record<TensorInfo["dtype"], DataType>>> = {
  F32: "float32",
  F16: "float16",
  U8: "uint8",
};
