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
  /** chat_template.jinja, undefined where there is none. */
  readonly chatTemplateFile: string | undefined;
  /** Names and shapes of every tensor. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Elements `from` … `from + count` of a tensor (row-major), as float32. */
  read(name: string, from: number, count: number): Promise<Float32Array>;
  close(): Promise<void>;
}

/** config.json alone, which tells whether the checkpoint is of a known family. */
export async function readConfig(folder: string): Promise<Checkpoint["config"]> {
  return (await readJson(folder, "config.json")).json;
}

/**
 * Opens the checkpoint in `folder`: config.json, model.safetensors or the shards that model.safetensors.index.json names,
 * tokenizer.json, tokenizer_config.json.
 *
 * @throws {EngineError} `checkpoint_unsupported`, naming the file that is missing or cannot be read
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const config = await readConfig(folder);
  const generationConfig = (await readJson(folder, "generation_config.json", true)).json;
  const tokenizer = (await readJson(folder, "tokenizer.json")).bytes;
  const tokenizerConfig = (await readJson(folder, "tokenizer_config.json", true)).bytes;
  const chatTemplateFile = await readFile(join(folder, "chat_template.jinja"), "utf8")
    .catch((error) => {
      if (isAbsent(error)) return undefined;
      throw unreadable(folder, "chat_template.jinja", error);
    });
  const index = (await readJson(folder, "model.safetensors.index.json", true)).json;
  // a map by the format; undefined where one file holds everything
  const weightMap = index.weight_map as Record<string, string> | undefined;
  const shards = weightMap === undefined
    ? ["model.safetensors"]
    : [...new Set(Object.values(weightMap))].sort();
  const outside = shards.find((shard) => !/^[\w.-]+$/.test(shard));
  if (outside !== undefined) {
    throw unreadable(folder, "model.safetensors.index.json", `${outside} is no plain file name`);
  }

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
        if (weightMap !== undefined && weightMap[name] !== shard) continue; // the index decides
        tensors.set(name, info);
        places.set(name, handle);
      }
    }
  } catch (error) {
    await close();
    throw error instanceof EngineError && error.code === "bundle_invalid"
      ? new EngineError("checkpoint_unsupported", error.message, { cause: error })
      : error;
  }
  return {
    config,
    generationConfig,
    tokenizer,
    tokenizerConfig,
    chatTemplateFile,
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

/** A JSON object of the checkpoint; an optional file that does not exist is `{}`. */
async function readJson(folder: string, file: string, optional = false) {
  try {
    const bytes: Uint8Array = await readFile(join(folder, file)).catch((error) => {
      if (optional && isAbsent(error)) return new TextEncoder().encode("{}");
      throw error;
    });
    const json: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof json !== "object" || json === null) throw new TypeError("must hold a JSON object");
    return { bytes, json: json as Record<string, unknown> }; // an object by the check above
  } catch (cause) {
    throw unreadable(folder, file, cause);
  }
}

const isAbsent = (error: unknown) =>
  error instanceof Error && "code" in error && error.code === "ENOENT";

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
  const table = halfTable ??= Float32Array.from({ length: 65536 }, (_, bits) => halfToNumber(bits));
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = table[halves[i]];
  return out;
}

/** Every float16 by its bits; written once, by the first toFloat32() that needs it. */
let halfTable: Float32Array | undefined;

/** IEEE 754 binary16 bits as a number. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Reads `length` bytes; `what` names the file or the tensor in an error. */
async function readExactly(handle: FileHandle, what: string, position: number, length: number) {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) {
      throw new EngineError(
        "checkpoint_unsupported",
        `${what}: the file ends ${length - done} bytes early`,
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
