/**
 * Converts a checkpoint of LLaDA-8B's shape (sparse: it takes no space) in a process that may hold twice its largest tensor
 * plus 1 GB, and reports the peak. Linux: the limit is RLIMIT_DATA, which counts every private writable mapping.
 *
 *     deno task bench:convert [--dtype q8] [--folder DIR]      # DIR needs room for the bundle: 9 GB at q8
 *     deno task bench:convert --run native                     # then a few passes: needs twice the bundle as memory
 */
import { parseArgs } from "@std/cli";
import { EIGHT_BILLION, writeSparseCheckpoint } from "../support/sparse_checkpoint.ts";
import { type BackendName, BACKENDS } from "../../src/backend/backend.ts";
import { loadBundle } from "../../src/loader.ts";
import { openSession } from "../../src/session.ts";
import { convertUnderLimit } from "../support/limited_convert.ts";

const { dtype, folder: parent, run } = parseArgs(Deno.args, {
  string: ["dtype", "folder", "run"],
  default: { dtype: "q8" },
});
const backend = BACKENDS.find((name) => name === run);
if (run !== undefined && backend === undefined) {
  throw new Error(`--run must be one of ${BACKENDS.join(", ")}`);
}
const folder = await Deno.makeTempDir({ dir: parent });
try {
  const { parameters, bytes, largestTensorBytes } = await writeSparseCheckpoint(
    `${folder}/source`,
    EIGHT_BILLION,
  );
  const gigabytes = (value: number) => `${(value / 1e9).toFixed(2)} GB`;
  const limit = 2 * largestTensorBytes + 1e9;
  console.log(
    `${(parameters / 1e9).toFixed(2)} B parameters, ${
      gigabytes(bytes)
    } of bfloat16, largest tensor ` +
      `${gigabytes(largestTensorBytes)}: limit ${gigabytes(limit)}`,
  );
  const started = performance.now();
  const { code, peakResident } = await convertUnderLimit({
    source: `${folder}/source`,
    target: `${folder}/bundle`,
    dtype,
    limit,
    output: "inherit",
  });
  const seconds = (performance.now() - started) / 1000;
  if (code !== 0) throw new Error(`convert ended with ${code}`);
  const { size } = await Deno.stat(`${folder}/bundle/weights.safetensors`);
  console.log(
    `${dtype}: ${gigabytes(size)} of weights in ${seconds.toFixed(0)} s, peak resident ` +
      `${gigabytes(peakResident)}`,
  );
  if (backend !== undefined) await runPasses(`${folder}/bundle`, backend);
} finally {
  await Deno.remove(folder, { recursive: true });
}

/** Loads the bundle and times passes of 32 positions: the time does not depend on the weights' values. */
async function runPasses(bundle: string, name: BackendName): Promise<void> {
  const started = performance.now();
  const { manifest, weights } = await loadBundle(bundle);
  const session = await openSession({
    manifest,
    weights,
    backends: [name],
    options: { threads: navigator.hardwareConcurrency, softwareAdapter: true },
  });
  console.log(`${session.description}: open after ${Math.round(performance.now() - started)} ms`);
  const ids = new Array(32).fill(5);
  const input = { slot: 0, start: 0, ids, blockLength: Infinity, keep: 0, rows: [31] };
  for (let pass = 0; pass < 5; pass++) {
    const before = performance.now();
    await session.forward([input]);
    console.log(`pass of ${ids.length} positions: ${Math.round(performance.now() - before)} ms`);
  }
  await session.close();
  if (Deno.build.os !== "linux") return;
  const status = await Deno.readTextFile("/proc/self/status");
  console.log(`peak resident: ${Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) / 1e6} GB`);
}
