/**
 * The reference checkpoints at q8 and q4, judged by replaying the float32 matrices that their weights stand for: the same
 * logits on every backend, and the same states pass by pass.
 */
import { assert, assertEquals } from "@std/assert";
import type { BackendName } from "../../src/backend/backend.ts";
import type { Bundle } from "../../src/loader.ts";
import { openSession } from "../../src/session.ts";
import { testBackends } from "../support/backends.ts";
import { convertedBundle, copyCheckpoint } from "../support/checkpoint.ts";
import { dequantizedBundle } from "../support/dequantized.ts";
import { replayForward } from "../support/replay_forward.ts";
import { replayTrace } from "../support/replay_trace.ts";
import { available } from "../support/require.ts";
import { openVectors, vectorFolders } from "../support/vectors.ts";

const BACKENDS = await testBackends();
const open = ({ manifest, weights }: Bundle, backend: BackendName) =>
  openSession({
    manifest,
    weights,
    backends: [backend],
    // the weights are judged here; what rounding activations costs is measured on the trained model
    options: { threads: 1, softwareAdapter: true, exactActivations: true },
  });

/** Share of the largest logit by which a row may differ: GPU and native add up in another order than WebAssembly. */
const TOLERANCE: Readonly<Record<BackendName, number>> = { wasm: 1e-6, webgpu: 1e-3, native: 1e-3 };

for (const name of vectorFolders()) {
  for (const dtype of ["q8", "q4"] as const) {
    const load = async () => {
      const vectors = openVectors(name);
      const bundle = await convertedBundle(
        (folder) => copyCheckpoint(vectors.folder, folder),
        dtype,
      );
      return { vectors, bundle, replay: dequantizedBundle(bundle) };
    };

    for (const backend of BACKENDS) {
      Deno.test({
        name: `${dtype} logits are those of the dequantised weights on ${backend.name}: ${name}`,
        ...available(backend.name, backend.ok, backend.why),
        fn: async () => {
          const { vectors, bundle, replay } = await load();
          const { vocabSize } = bundle.manifest.architecture;
          const session = await open(bundle, backend.name);
          const reference = await open(replay, "wasm");
          for (const test of vectors.forward) {
            const ours = await replayForward(session, test, vocabSize);
            const expected = await replayForward(reference, test, vocabSize);
            let most = 0, worst = 0;
            ours.forEach(({ logits }, row) =>
              logits.forEach((values, i) =>
                values.forEach((value, id) => {
                  const other = expected[row].logits[i][id];
                  most = Math.max(most, Math.abs(other));
                  worst = Math.max(worst, Math.abs(value - other));
                })
              )
            );
            assert(
              most > 0 && worst <= TOLERANCE[backend.name] * most,
              `${test.name}: ${worst} apart, the largest logit is ${most}`,
            );
          }
          await session.close();
          await reference.close();
        },
      });
    }

    Deno.test(`${dtype} generations are those of the dequantised weights: ${name}`, async () => {
      const { vectors, bundle, replay } = await load();
      const session = await open(bundle, "wasm"), reference = await open(replay, "wasm");
      let changed = 0;
      for (const trace of vectors.traces) {
        const ours = await replayTrace(session, bundle.manifest, trace);
        const expected = await replayTrace(reference, replay.manifest, trace);
        ours.forEach((row, i) => {
          assertEquals(row.ours, expected[i].ours, trace.name);
          if (row.ours.join() !== row.expected.join()) changed++;
        });
      }
      if (dtype === "q4") {
        assert(changed > 0, "q4 must make a difference, or nothing was quantised");
      }
      await session.close();
      await reference.close();
    });
  }
}
