/**
 * The safetensors container: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
 *
 * Source: the format description of the safetensors project.
 */
import { EngineError } from "./errors.ts";

/** Element types of safetensors that this project reads or writes. */
export type SafetensorsDtype = "F32" | "F16" | "BF16" | "U8" | "I8" | "I32" | "I64" | "BOOL";

const BYTES: Readonly<Record<SafetensorsDtype, number>> = {
  F32: 4,
  F16: 2,
  BF16: 2,
  U8: 1,
  I8: 1,
  I32: 4,
  I64: 8,
  BOOL: 1,
};

/** One tensor's place: `length` bytes at `offset` from the start of the file. */
export interface TensorInfo {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly length: number;
}

/** What a header says: the tensors by name, and the free-text metadata. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Bytes before the first tensor. */
  readonly dataStart: number;
}

/** Bytes that a tensor of this type and shape takes. */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, BYTES[dtype]);
}

/** Length of the JSON header, read from the first 8 bytes of a file. */
export function headerLength(first8: Uint8Array, name: string): number {
  if (first8.length < 8) throw invalid(name, "shorter than its 8-byte length field");
  const length = new DataView(first8.buffer, first8.byteOffset).getBigUint64(0, true);
  if (length > 100_000_000n) throw invalid(name, `claims a header of ${length} bytes`);
  return Number(length);
}

/**
 * Parses the JSON header (the bytes after the length field).
 *
 * @param fileSize size of the whole file, against which every range is checked
 * @throws {EngineError} `bundle_invalid` where the header lies about types, shapes or ranges
 */
export function parseHeader(json: Uint8Array, fileSize: number, name: string): SafetensorsHeader {
  let raw: Record<string, unknown>;
  try {
    raw = JSON.parse(new TextDecoder().decode(json));
  } catch (cause) {
    throw new EngineError("bundle_invalid", `${name}: header is not JSON`, { cause });
  }
  const dataStart = 8 + json.length;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(raw)) {
    if (key === "__metadata__") {
      metadata = value as Record<string, string>; // free text by the format; never interpreted
      continue;
    }
    const { dtype, shape, data_offsets } = value as { // checked field by field below
      dtype: SafetensorsDtype;
      shape: number[];
      data_offsets: [number, number];
    };
    if (!(dtype in BYTES)) throw invalid(name, `tensor ${key} has the unknown type ${dtype}`);
    const [start, end] = data_offsets;
    if (end - start !== tensorBytes(dtype, shape) || start < 0 || dataStart + end > fileSize) {
      throw invalid(name, `tensor ${key} ${dtype}[${shape}] does not fit bytes ${start}-${end}`);
    }
    tensors.set(key, { dtype, shape, offset: dataStart + start, length: end - start });
  }
  return { tensors, metadata, dataStart };
}

/** Parses the header of a file that is wholly in memory. */
export function parseSafetensors(file: Uint8Array, name: string): SafetensorsHeader {
  const length = headerLength(file, name);
  if (8 + length > file.length) throw invalid(name, `header of ${length} bytes is cut off`);
  return parseHeader(file.subarray(8, 8 + length), file.length, name);
}

/**
 * The header bytes (length field included) of a file that holds `tensors` in the given order, each starting on a
 * multiple of 64 bytes' worth of padding at the front, so that typed arrays can view them in place.
 */
export function encodeHeader(
  tensors: readonly {
    readonly name: string;
    readonly dtype: SafetensorsDtype;
    readonly shape: readonly number[];
  }[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  let at = 0;
  for (const { name, dtype, shape } of tensors) {
    const length = tensorBytes(dtype, shape);
    header[name] = { dtype, shape, data_offsets: [at, at + length] };
    at += length;
  }
  let json = JSON.stringify(header);
  json += " ".repeat((64 - ((8 + new TextEncoder().encode(json).length) % 64)) % 64);
  const body = new TextEncoder().encode(json);
  const out = new Uint8Array(8 + body.length);
  new DataView(out.buffer).setBigUint64(0, BigInt(body.length), true);
  out.set(body, 8);
  return out;
}

function invalid(name: string, fact: string): EngineError {
  return new EngineError("bundle_invalid", `${name}: ${fact}`);
}
