/**
 * A writer of ONNX models: the few protobuf messages of onnx.proto3 (IR version 10) that our graphs need,
 * so that a graph can be generated at load without an export script or a protobuf dependency.
 *
 * Source of the field numbers: onnx/onnx.proto3.
 */

/** Element types by their `TensorProto.DataType` number. */
export const DATA_TYPE = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
} as const;
export type DataType = keyof typeof DATA_TYPE;

/** Bytes of one element. */
export const ELEMENT_BYTES: Readonly<Record<DataType, number>> = {
  float32: 4,
  uint8: 1,
  int8: 1,
  int32: 4,
  int64: 8,
  bool: 1,
  float16: 2,
};

/** A fixed size, or the name of a dynamic one. */
export type Dim = number | string;
export type Attribute = number | string | readonly number[] | { readonly float: number };

const WIRE_VARINT = 0, WIRE_BYTES = 2, WIRE_FIXED32 = 5;
const utf8 = new TextEncoder();

/** One protobuf message under construction. */
class Message {
  #chunks: Uint8Array[] = [];
  #size = 0;

  #push(bytes: Uint8Array): this {
    this.#chunks.push(bytes);
    this.#size += bytes.length;
    return this;
  }

  #varint(value: bigint): this {
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, value);
    while (rest > 0x7fn) {
      bytes.push(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    bytes.push(Number(rest));
    return this.#push(Uint8Array.from(bytes));
  }

  #key(field: number, wire: number): this {
    return this.#varint(BigInt((field << 3) | wire));
  }

  int(field: number, value: number): this {
    return this.#key(field, WIRE_VARINT).#varint(BigInt(value));
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    return this.#key(field, WIRE_FIXED32).#push(bytes);
  }

  bytes(field: number, value: Uint8Array): this {
    return this.#key(field, WIRE_BYTES).#varint(BigInt(value.length)).#push(value);
  }

  string(field: number, value: string): this {
    return this.bytes(field, utf8.encode(value));
  }

  message(field: number, value: Message): this {
    return this.bytes(field, value.finish());
  }

  finish(): Uint8Array {
    const out = new Uint8Array(this.#size);
    let at = 0;
    for (const chunk of this.#chunks) {
      out.set(chunk, at);
      at += chunk.length;
    }
    return out;
  }
}

/** Where the bytes of a large initialiser lie: `length` bytes at `offset` of the file `path`. */
export interface ExternalRange {
  readonly path: string;
  readonly offset: number;
  readonly length: number;
}

/**
 * Builds one graph, node by node. Every value is named by a string; `node()` returns the name of its first output.
 *
 * @example
 * ```ts
 * import { GraphBuilder } from "./onnx.ts";
 * const graph = new GraphBuilder("double");
 * graph.input("x", "float32", ["n"]);
 * graph.output(graph.node("Add", ["x", "x"], {}, { outputs: ["y"] }), "float32", ["n"]);
 * const bytes: Uint8Array = graph.finish();
 * if (bytes.length === 0) throw new Error("empty");
 * ```
 */
export class GraphBuilder {
  #graph = new Message();
  #fresh = 0;
  #constants = new Map<string, string>();
  #domains = new Set<string>();

  constructor(readonly name: string) {}

  /** A name that nothing in this graph has yet. */
  fresh(stem: string): string {
    return `${stem}_${this.#fresh++}`;
  }

  /** Declares an input of the graph. */
  input(name: string, type: DataType, dims: readonly Dim[]): string {
    this.#graph.message(11, valueInfo(name, type, dims));
    return name;
  }

  /** Declares that the value `name` is an output of the graph. */
  output(name: string, type: DataType, dims: readonly Dim[]): void {
    this.#graph.message(12, valueInfo(name, type, dims));
  }

  /**
   * Adds a node and returns the name of its first output.
   *
   * @param options.outputs names of the outputs, where the caller wants to choose or needs more than one
   * @param options.domain operator domain, `""` for ai.onnx
   */
  node(
    operator: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
    options: { readonly outputs?: readonly string[]; readonly domain?: string } = {},
  ): string {
    const outputs = options.outputs ?? [this.fresh(operator)];
    const domain = options.domain ?? "";
    this.#domains.add(domain);
    const node = new Message();
    for (const input of inputs) node.string(1, input);
    for (const output of outputs) node.string(2, output);
    node.string(3, `node_${this.#fresh++}`).string(4, operator);
    for (const [name, value] of Object.entries(attributes)) {
      node.message(5, attribute(name, value));
    }
    if (domain !== "") node.string(7, domain);
    this.#graph.message(1, node);
    return outputs[0];
  }

  /** A small constant, stored inside the graph; equal constants are stored once. */
  constant(
    type: "float32" | "int64" | "int32" | "uint8",
    values: readonly number[],
    dims?: readonly number[],
  ) {
    const shape = dims ?? [values.length];
    const key = `${type}[${shape}]${values}`;
    const known = this.#constants.get(key);
    if (known !== undefined) return known;
    const raw = type === "float32"
      ? Float32Array.from(values)
      : type === "int32"
      ? Int32Array.from(values)
      : type === "uint8"
      ? Uint8Array.from(values)
      : BigInt64Array.from(values.map(BigInt));
    const name = this.initializer(this.fresh("const"), type, shape, new Uint8Array(raw.buffer));
    this.#constants.set(key, name);
    return name;
  }

  /** An initialiser whose bytes are inside the graph (`Uint8Array`) or at a range of an external file. */
  initializer(
    name: string,
    type: DataType,
    dims: readonly number[],
    data: Uint8Array | ExternalRange,
  ): string {
    const tensor = new Message();
    for (const dim of dims) tensor.int(1, dim);
    tensor.int(2, DATA_TYPE[type]).string(8, name);
    if (data instanceof Uint8Array) {
      tensor.bytes(9, data);
    } else {
      const entry = (key: string, value: string) => new Message().string(1, key).string(2, value);
      tensor.message(13, entry("location", data.path));
      tensor.message(13, entry("offset", String(data.offset)));
      tensor.message(13, entry("length", String(data.length)));
      tensor.int(14, 1);
    }
    this.#graph.message(5, tensor);
    return name;
  }

  /** The serialised `ModelProto`: opset 21 and, where used, com.microsoft 1. */
  finish(): Uint8Array {
    const model = new Message().int(1, 10).string(2, "cinnabar");
    const opset = (domain: string, version: number) =>
      new Message().string(1, domain).int(2, version);
    model.message(8, opset("", 21));
    for (const domain of this.#domains) if (domain !== "") model.message(8, opset(domain, 1));
    return model.message(7, this.#graph.string(2, this.name)).finish();
  }
}

function valueInfo(name: string, type: DataType, dims: readonly Dim[]): Message {
  const shape = new Message();
  for (const dim of dims) {
    shape.message(
      1,
      typeof dim === "number" ? new Message().int(1, dim) : new Message().string(2, dim),
    );
  }
  const tensor = new Message().int(1, DATA_TYPE[type]).message(2, shape);
  return new Message().string(1, name).message(2, new Message().message(1, tensor));
}

function attribute(name: string, value: Attribute): Message {
  const message = new Message().string(1, name);
  if (typeof value === "number") {
    if (!Number.isInteger(value)) {
      throw new TypeError(`attribute ${name}: write { float: ${value} }`);
    }
    return message.int(3, value).int(20, 2);
  }
  if (typeof value === "string") return message.string(4, value).int(20, 3);
  if ("float" in value) return message.float(2, value.float).int(20, 1);
  for (const item of value) message.int(8, item);
  return message.int(20, 7);
}
