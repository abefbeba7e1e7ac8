/** The shipped model in tests: its bundle, its checkpoint, and the golden logits that its training code made. */
import type { Bundle } from "../../src/loader.ts";
import { parseSafetensors } from "../../src/safetensors.ts";
import { floatBundleOf } from "./checkpoint.ts";

export const TINY = new URL("../../models/tiny/", import.meta.url);

/** One golden forward pass: logits [rows, V] at absolute positions `rows`. */
export interface GoldenCase {
  readonly name: string;
  readonly blockLength: number;
  readonly inputIds: readonly number[];
  readonly rows: readonly number[];
  /** the row's most likely token */
  readonly top1: readonly number[];
  /** where the case is of a block behind a cached prefix: the prefix's length */
  readonly prefixLength?: number;
  readonly tensor: string;
}

/** The golden cases, and their logits by name. */
export async function readGolden(): Promise<{
  readonly origin: { readonly weightsSha256: string };
  readonly cases: readonly GoldenCase[];
  logits(tensor: string): Float32Array;
}> {
  const json = JSON.parse(await Deno.readTextFile(new URL("golden.json", TINY)));
  const file = await Deno.readFile(new URL("golden.safetensors", TINY));
  const header = parseSafetensors(file, "golden.safetensors");
  return {
    ...json,
    logits(tensor) {
      const info = header.tensors.get(tensor);
      if (info === undefined) throw new Error(`no golden tensor ${tensor}`);
      return new Float32Array(file.slice(info.offset, info.offset + info.length).buffer);
    },
  };
}

/** Unpacks the trained checkpoint into `folder`. */
export async function unpackCheckpoint(folder: string): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (const name of ["config.json", "generation_config.json"]) {
    await Deno.copyFile(new URL(`checkpoint/${name}`, TINY), `${folder}/${name}`);
  }
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    await Deno.copyFile(new URL(name, TINY), `${folder}/${name}`);
  }
  const packed = await Deno.open(new URL("checkpoint/model.safetensors.gz", TINY));
  const target = await Deno.open(`${folder}/model.safetensors`, { write: true, create: true });
  await packed.readable.pipeThrough(new DecompressionStream("gzip")).pipeTo(target.writable);
}

/** The trained checkpoint as a float32 bundle. */
export function floatBundle(): Promise<Bundle> {
  return floatBundleOf(unpackCheckpoint);
}
