import { assert, assertEquals } from "@std/assert";
import { CAN_LIMIT, convertUnderLimit } from "../support/limited_convert.ts";
import { available } from "../support/require.ts";
import { writeSparseCheckpoint } from "../support/sparse_checkpoint.ts";

Deno.test({
  name: "convert holds less memory than the weights take, whatever their size",
  ...available("a limit on memory", CAN_LIMIT, "only Linux has RLIMIT_DATA"),
  fn: async () => {
    const folder = await Deno.makeTempDir();
    try {
      const { bytes } = await writeSparseCheckpoint(`${folder}/source`, {
        layers: 24,
        hidden: 1024,
        heads: 16,
        ffn: 4096,
        vocab: 16384,
      });
      const convert = (limit: number, target: string) =>
        convertUnderLimit({
          source: `${folder}/source`,
          target: `${folder}/${target}`,
          dtype: "q8",
          limit,
          output: "null",
        });
      // what Deno itself reserves is most of it; tests/bench/convert_8b.ts does the same at 8 billion weights
      const limit = 700e6;
      assert(bytes > 1.2 * limit, `${bytes} bytes of weights are no test of a limit of ${limit}`);
      const { code, peakResident } = await convert(limit, "bundle");
      assertEquals(code, 0);
      assert(peakResident < limit, `${peakResident} bytes were resident`);
      // and the limit is one: a process that may hold nothing does not get far
      assert((await convert(200e6, "none")).code !== 0);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
