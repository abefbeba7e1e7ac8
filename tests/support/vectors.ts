/** Reads the reference vectors: recorded logits of public reference code (see the README beside them). */
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
    readonly key_mask?: number[][];
    readonly prefix_ids?: number[][];
    readonly cached?: boolean;
  };
  readonly logits: string;
}

/** One recorded generation: the whole canvas before the first and after every denoising call. */
export interface Trace {
  readonly name: string;
  readonly sampler: string;
  readonly params: {
    readonly block_length: number;
    readonly denoising_steps: number;
    readonly remasking_strategy?: "low_confidence_dynamic" | "low_confidence_static" | "sequential";
    readonly confidence_threshold?: number;
    readonly threshold?: number;
    readonly stop_ids: readonly number[];
  };
  readonly prompts: readonly number[][];
  readonly states: readonly number[][][];
}

/** The vectors of one folder. */
export interface Vectors {
  readonly folder: string;
  readonly forward: readonly ForwardCase[];
  readonly traces: readonly Trace[];
  /** float32 values of an array that `forward` or `traces` names */
  array(name: string): Float32Array;
}

/** Whether the reference vectors are on this machine, and the folder they were looked for in. */
export function vectorsAvailable(): { readonly ok: boolean; readonly root: string } {
  try {
    return { ok: Deno.statSync(ROOT).isDirectory, root: ROOT };
  } catch {
    return { ok: false, root: ROOT };
  }
}

/** Opens one folder of the reference vectors. */
export function openVectors(name: string): Vectors {
  const folder = `${ROOT}/${name}`;
  const { forward, traces } = JSON.parse(Deno.readTextFileSync(`${folder}/vectors.json`));
  const file = Deno.readFileSync(`${folder}/expected.safetensors`);
  const header = parseSafetensors(file, "expected.safetensors");
  return {
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
