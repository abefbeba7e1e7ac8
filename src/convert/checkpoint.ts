/** A Hugging Face checkpoint folder, read by range so that memory never depends on its size. */
import { EngineError, messageOf } from "../errors.ts";
import { headerLength, parseHeader, type TensorInfo } from "../safetensors.ts";

/** A JSON object of a checkpoint, not yet understood. */
export type JsonObject = Readonly<Record<string, unknown>>;

interface Shard {
  readonly path: string;
  readonly file: Deno.FsFile;
}

interface PlacedTensor extends TensorInfo {
  readonly shard: Shard;
}

/** An open checkpoint; whoever opened it closes it. */
export class Checkpoint implements Disposable {
  constructor(
    readonly folder: string,
    /** config.json */
    readonly config: JsonObject,
    /** generation_config.json, `{}` where there is none */
    readonly generationConfig: JsonObject,
    /** tokenizer.json as it is on disk, and parsed */
    readonly tokenizer: { readonly bytes: Uint8Array; readonly json: JsonObject },
    /** tokenizer_config.json, `{}` where there is none */
    readonly tokenizerConfig: { readonly bytes: Uint8Array; readonly json: JsonObject },
    readonly tensors: ReadonlyMap<string, PlacedTensor>,
    readonly shards: readonly Shard[],
  ) {}

  /**
   * Reads `length` bytes of a tensor, starting `offset` bytes into it.
   *
   * @throws {EngineError} `checkpoint_unsupported` where the file ends before that
   */
  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw new RangeError(`no tensor ${name}`);
    return await readAt(tensor.shard, tensor.offset + offset, length);
  }

  [Symbol.dispose](): void {
    for (const { file } of this.shards) file.close();
  }
}

/** Reads config.json alone: enough to tell whether a checkpoint is of a known family. */
export async function readConfig(folder: string): Promise<JsonObject> {
  return (await readJson(folder, "config.json")).json;
}

/**
 * Opens a checkpoint folder: config.json, tokenizer.json, and model.safetensors or the shards that
 * model.safetensors.index.json lists.
 *
 * @throws {EngineError} `checkpoint_unsupported` naming the file that is missing, broken or cut off
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const config = await readConfig(folder);
  const generationConfig = await readJson(folder, "generation_config.json", {});
  const tokenizer = await readJson(folder, "tokenizer.json");
  const tokenizerConfig = await readJson(folder, "tokenizer_config.json", {});
  const index = await readJson(folder, "model.safetensors.index.json", {});
  const placement = weightMap(folder, index.json);

  const shards: Shard[] = [];
  try {
    const tensors = new Map<string, PlacedTensor>();
    for (const name of placement?.files ?? ["model.safetensors"]) {
      const shard = await openShard(folder, name);
      shards.push(shard);
      for (const [tensor, info] of await readShardHeader(shard)) {
        // Files may overlap; the index says which one counts.
        if (placement === undefined || placement.of.get(tensor) === name) {
          tensors.set(tensor, { ...info, shard });
        }
      }
    }
    for (const [tensor, file] of placement?.of ?? []) {
      if (!tensors.has(tensor)) throw broken(`${folder}/${file}: has no tensor ${tensor}`);
    }
    return new Checkpoint(
      folder,
      config,
      generationConfig.json,
      tokenizer,
      tokenizerConfig,
      tensors,
      shards,
    );
  } catch (error) {
    for (const { file } of shards) file.close();
    throw error;
  }
}

/** Which shard holds which tensor, or undefined without an index. */
function weightMap(folder: string, index: JsonObject) {
  const map = index.weight_map;
  if (map === undefined) return undefined;
  const of = new Map<string, string>();
  if (typeof map === "object" && map !== null) {
    for (const [tensor, file] of Object.entries(map)) {
      if (typeof file !== "string" || !/^[\w.-]+$/.test(file)) {
        throw broken(
          `${folder}/model.safetensors.index.json: ${tensor} lies in no plain file name`,
        );
      }
      of.set(tensor, file);
    }
  }
  return { of, files: [...new Set(of.values())].sort() };
}

async function openShard(folder: string, name: string): Promise<Shard> {
  const path = `${folder}/${name}`;
  try {
    return { path, file: await Deno.open(path, { read: true }) };
  } catch (cause) {
    throw broken(`${path}: cannot be opened (${messageOf(cause)})`, cause);
  }
}

async function readShardHeader(shard: Shard): Promise<ReadonlyMap<string, TensorInfo>> {
  const size = (await shard.file.stat()).size;
  if (size < 8) throw broken(`${shard.path}: has ${size} bytes; a header needs at least 8`);
  try {
    const length = headerLength(await readAt(shard, 0, 8), shard.path);
    return parseHeader(await readAt(shard, 8, length), size, shard.path).tensors;
  } catch (cause) {
    if (cause instanceof EngineError && cause.code === "checkpoint_unsupported") throw cause;
    throw broken(messageOf(cause), cause);
  }
}

async function readAt(shard: Shard, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await shard.file.seek(offset, Deno.SeekMode.Start);
  for (let at = 0; at < length;) {
    const got = await shard.file.read(bytes.subarray(at));
    if (got === null) {
      throw broken(`${shard.path}: ends at byte ${offset + at}, needed ${offset + length}`);
    }
    at += got;
  }
  return bytes;
}

async function readJson(folder: string, name: string, absent?: JsonObject) {
  const path = `${folder}/${name}`;
  let bytes: Uint8Array;
  try {
    bytes = await Deno.readFile(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound) || absent === undefined) {
      throw broken(`${path}: cannot be read (${messageOf(cause)})`, cause);
    }
    bytes = new TextEncoder().encode(JSON.stringify(absent) + "\n");
  }
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw broken(`${path}: is not JSON (${messageOf(cause)})`, cause);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw broken(`${path}: must hold a JSON object`);
  }
  return { bytes, json: json as JsonObject }; // an object by the check above; its fields stay unknown
}

function broken(message: string, cause?: unknown): EngineError {
  return new EngineError("checkpoint_unsupported", message, { cause });
}
