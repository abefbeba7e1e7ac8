/**
 * The reference checkpoints at q8 and q4, judged by replaying the float32 matrices that their weights stand for: the same
 * states pass by pass where the multiplication is in float32, and logits within the rounding of activations elsewhere.
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
    options: { threads: 1, softwareAdapter: true },
  });

/**
 * Share of the largest logit by which a row may differ. WebGPU adds up in another order. Native rounds activations to int8,
 * which these random models magnify: there the typical row is judged, since single ones tip over (an expert changes).
 */
const TOLERANCE: Readonly<Record<BackendName, number>> = { wasm: 1e-6, webgpu: 1e-3, native: 0.1 };

/** The worst row, or the median one where rows may tip over. */
function judged(backend: BackendName, rows: readonly number[]): number {
  const sorted = rows.toSorted((a, b) => a - b);
  return sorted[backend === "native" ? Math.floor(sorted.length / 2) : sorted.length - 1];
}

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
            let most = 0;
            const rows = ours.flatMap(({ logits }, row) =>
              logits.map((values, i) => {
                let worst = 0;
                values.forEach((value, id) => {
                  const other = expected[row].logits[i][id];
                  most = Math.max(most, Math.abs(other));
                  worst = Math.max(worst, Math.abs(value - other));
                });
                return worst;
              })
            );
            const apart = judged(backend.name, rows);
            assert(
              most > 0 && apart <= TOLERANCE[backend.name] * most,
              `${test.name}: ${apart} apart, the largest logit is ${most}`,
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
