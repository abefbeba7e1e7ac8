/** Reads the reference vectors: recorded logits and generations of public reference code (see the README beside them). */
import { parseSafetensors } from "../../src/safetensors.ts";

const ROOT = Deno.env.get("CINNABAR_VECTORS") ??
  new URL("../../../shared/vectors", import.meta.url).pathname;

/** One recorded forward pass. */
export interface ForwardCase {
  readonly name: string;
  readonly input_ids: number[][];
  readonly position_ids: number[][] | null;
  readonly attention: {
    readonly type: "bidirectional" | "block-causal";
    readonly block_size?: number;
    /** 1: the key is visible */
    readonly key_mask?: number[][];
    /** Keys and values of these ids, computed alone, stand before the input. */
    readonly prefix_ids?: number[][];
    readonly cached?: boolean;
    /** Keys and values of these ids, computed in one call, of which `cache_slice` stays or `replace` is replaced. */
    readonly cache_from_ids?: number[][];
    readonly cache_slice?: [number, number];
    /** The same for one block behind the prefix. */
    readonly block_cache_from_ids?: number[][];
    readonly replace?: [number, number];
  };
  readonly logits: string;
  readonly compare_mask?: number[][];
}

/** One recorded generation: the whole canvas of each row before the first and after every call. */
export interface Trace {
  readonly name: string;
  readonly sampler: string;
  // the arguments of the reference code, whose names differ from sampler to sampler; see trace_options.ts
  // deno-lint-ignore no-explicit-any
  readonly params: Record<string, any>;
  readonly prompts: readonly number[][];
  readonly attention_mask?: readonly number[][];
  readonly uniforms?: readonly number[][];
  readonly forward_calls: { readonly total: number; readonly [kind: string]: number };
  readonly states: readonly number[][][];
  readonly final: readonly number[][];
}

/** The vectors of one folder. */
export interface Vectors {
  readonly name: string;
  readonly folder: string;
  readonly forward: readonly ForwardCase[];
  readonly traces: readonly Trace[];
  /** float32 values of an array that `forward` or `traces` names */
  array(name: string): Float32Array;
}

/** Whether the reference vectors are on this machine, and the folder they were looked for in. */
export function vectorsAvailable(): { readonly ok: boolean; readonly root: string } {
  return { ok: vectorFolders().length > 0, root: ROOT };
}

/** Names of all folders with a checkpoint and its vectors. */
export function vectorFolders(): string[] {
  const isFile = (path: string) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  };
  try {
    return [...Deno.readDirSync(ROOT)].map((entry) => entry.name).sort()
      .filter((name) => isFile(`${ROOT}/${name}/vectors.json`));
  } catch {
    return [];
  }
}

/** The recorded transfer schedules. */
export function readSchedules() {
  return JSON.parse(Deno.readTextFileSync(`${ROOT}/schedules/schedules.json`));
}

/** Opens one folder of the reference vectors. */
export function openVectors(name: string): Vectors {
  const folder = `${ROOT}/${name}`;
  const { forward, traces } = JSON.parse(Deno.readTextFileSync(`${folder}/vectors.json`));
  const file = Deno.readFileSync(`${folder}/expected.safetensors`);
  const header = parseSafetensors(file, "expected.safetensors");
  return {
    name,
    folder,
    forward,
    traces,
    array(key) {
      const info = header.tensors.get(key);
      if (info === undefined) throw new Error(`${name}: no array ${key}`);
      return new Float32Array(file.slice(info.offset, info.offset + info.length).buffer);
    },
  };
}
