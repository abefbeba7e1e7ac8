/**
 * Converts a checkpoint of LLaDA-8B's shape (sparse: it takes no space) in a process that may hold twice its largest tensor
 * plus 1 GB, and reports the peak. Linux: the limit is RLIMIT_DATA, which counts every private writable mapping.
 *
 *     deno task bench:convert [--dtype q8] [--folder DIR]      # DIR needs room for the bundle: 9 GB at q8
 */
import { parseArgs } from "@std/cli";
import { EIGHT_BILLION, writeSparseCheckpoint } from "../support/sparse_checkpoint.ts";
import { convertUnderLimit } from "../support/limited_convert.ts";

const { dtype, folder: parent } = parseArgs(Deno.args, {
  string: ["dtype", "folder"],
  default: { dtype: "q8" },
});
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
} finally {
  await Deno.remove(folder, { recursive: true });
}
