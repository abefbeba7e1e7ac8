/** A Hugging Face checkpoint folder, read tensor by tensor and row by row: never a whole file in memory. */
import { type FileHandle, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { EngineError, messageOf } from "../errors.ts";
import { headerLength, parseHeader, type TensorInfo } from "../safetensors.ts";

/** An open checkpoint. */
export interface Checkpoint {
  /** config.json */
  readonly config: Readonly<Record<string, unknown>>;
  /** generation_config.json, empty where there is none. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
  /** Bytes of the tokenizer's files, to be copied as they are. */
  readonly tokenizer: Uint8Array;
  readonly tokenizerConfig: Uint8Array;
  /** Names and shapes of every tensor. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Elements `from` … `from + count` of a tensor (row-major), as float32. */
  read(name: string, from: number, count: number): Promise<Float32Array>;
  close(): Promise<void>;
}

/**
 * Opens the checkpoint in `folder`: config.json, model.safetensors or the shards that model.safetensors.index.json names,
 * tokenizer.json, tokenizer_config.json.
 *
 * @throws {EngineError} `checkpoint_unsupported`, naming the file that is missing or cannot be read
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const bytes = async (file: string, optional = false): Promise<Uint8Array> => {
    try {
      return await readFile(join(folder, file));
    } catch (cause) {
      if (optional) return new TextEncoder().encode("{}");
      throw unreadable(folder, file, cause);
    }
  };
  const json = async (file: string, optional = false): Promise<Record<string, unknown>> => {
    try {
      return JSON.parse(new TextDecoder().decode(await bytes(file, optional)));
    } catch (cause) {
      if (cause instanceof EngineError) throw cause;
      throw unreadable(folder, file, cause);
    }
  };
  const config = await json("config.json");
  const generationConfig = await json("generation_config.json", true);
  const tokenizer = await bytes("tokenizer.json");
  const tokenizerConfig = await bytes("tokenizer_config.json");
  const index = await json("model.safetensors.index.json", true);
  const shards = index.weight_map === undefined
    ? ["model.safetensors"]
    : [...new Set(Object.values(index.weight_map as Record<string, string>))].sort(); // by the format

  const handles: FileHandle[] = [];
  const close = async () => void await Promise.all(handles.map((handle) => handle.close()));
  const tensors = new Map<string, TensorInfo>();
  const places = new Map<string, FileHandle>();
  try {
    for (const shard of shards) {
      const handle = await open(join(folder, shard)).catch((cause) => {
        throw unreadable(folder, shard, cause);
      });
      handles.push(handle);
      const { size } = await handle.stat();
      const length = headerLength(await readExactly(handle, shard, 0, Math.min(8, size)), shard);
      const header = parseHeader(await readExactly(handle, shard, 8, length), size, shard);
      for (const [name, info] of header.tensors) {
        tensors.set(name, info);
        places.set(name, handle);
      }
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    config,
    generationConfig,
    tokenizer,
    tokenizerConfig,
    tensors,
    close,
    async read(name, from, count) {
      const info = tensors.get(name);
      const handle = places.get(name);
      if (info === undefined || handle === undefined) throw new RangeError(`no tensor ${name}`);
      const size = elementBytes(name, info);
      return toFloat32(
        await readExactly(handle, name, info.offset + from * size, count * size),
        info.dtype,
      );
    },
  };
}

function elementBytes(name: string, { dtype }: TensorInfo): number {
  if (dtype === "F32") return 4;
  if (dtype === "F16" || dtype === "BF16") return 2;
  throw new EngineError(
    "checkpoint_unsupported",
    `tensor ${name} is ${dtype}; weights must be F32, F16 or BF16`,
  );
}

/** Float32 values of little-endian F32, F16 or BF16 bytes. */
export function toFloat32(bytes: Uint8Array, dtype: string): Float32Array {
  const { buffer, byteOffset } = bytes;
  if (dtype === "F32") return new Float32Array(buffer, byteOffset, bytes.length / 4);
  const halves = new Uint16Array(buffer, byteOffset, bytes.length / 2);
  if (dtype === "BF16") {
    const bits = new Uint32Array(halves.length);
    for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16; // the upper half of a float32
    return new Float32Array(bits.buffer);
  }
  return Float32Array.from(halves, halfToNumber);
}

/** IEEE 754 binary16 bits as a number. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

async function readExactly(handle: FileHandle, name: string, position: number, length: number) {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) {
      throw new EngineError(
        "checkpoint_unsupported",
        `${name}: the file ends ${length - done} bytes early`,
      );
    }
    done += bytesRead;
  }
  return bytes;
}

function unreadable(folder: string, file: string, cause: unknown): EngineError {
  return new EngineError(
    "checkpoint_unsupported",
    `${folder} is not a checkpoint folder: ${file}: ${messageOf(cause)}`,
    { cause },
  );
}
