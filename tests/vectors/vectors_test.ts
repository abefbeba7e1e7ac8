/**
 * Every folder of reference vectors: converted at fp32, forward logits within 1e-3 of the largest |logit|, and every recorded
 * generation state by state, id by id, in no more passes than the reference took. The folders are whatever CINNABAR_VECTORS
 * holds: what is said here is said of samplers, never of a folder.
 */
import { assert, assertEquals } from "@std/assert";
import type { BackendName } from "../../src/backend/backend.ts";
import type { Manifest } from "../../src/manifest.ts";
import { type ModelSession, openSession } from "../../src/session.ts";
import { transferSchedule } from "../../src/transfer_schedule.ts";
import { testBackends } from "../support/backends.ts";
import { copyCheckpoint, floatBundleOf } from "../support/checkpoint.ts";
import { replayForward } from "../support/replay_forward.ts";
import { type ReplayedTrace, replayTrace } from "../support/replay_trace.ts";
import { available } from "../support/require.ts";
import {
  type ForwardCase,
  openVectors,
  readSchedules,
  type Trace,
  vectorFolders,
  type Vectors,
  vectorsAvailable,
} from "../support/vectors.ts";

const { ok, root } = vectorsAvailable();

Deno.test({
  name: "reference vectors are there",
  ...available("reference vectors", ok, `no folder with vectors.json in ${root}`),
  fn: () => assert(vectorFolders().length > 0),
});

const BACKENDS = await testBackends();

for (const name of vectorFolders()) {
  for (const backend of BACKENDS.filter((one) => one.name !== "wasm")) {
    Deno.test({
      name: `reference logits on ${backend.name}: ${name}`,
      ...available(backend.name, backend.ok, backend.why),
      fn: async (t) => {
        const vectors = openVectors(name);
        const { session, manifest } = await openVectorsOn(vectors, backend.name);
        for (const test of vectors.forward) {
          await t.step(test.name, () => checkLogits(session, manifest, vectors, test));
        }
        await session.close();
      },
    });
  }

  Deno.test(`reference vectors: ${name}`, async (t) => {
    const vectors = openVectors(name);
    const { session, manifest } = await openVectorsOn(vectors, "wasm");
    for (const test of vectors.forward) {
      await t.step(`logits: ${test.name}`, () => checkLogits(session, manifest, vectors, test));
    }
    for (const trace of vectors.traces) {
      await t.step(`generation: ${trace.name}`, async () => {
        for (const row of await replayTrace(session, manifest, trace)) {
          if (trace.name.startsWith("quirk_")) checkInstead(row, trace);
          else checkStates(row, trace);
        }
      });
    }
    await session.close();
  });
}

/** Converts the checkpoint of a folder at fp32 and opens it. */
async function openVectorsOn(vectors: Vectors, backend: BackendName) {
  const { manifest, weights } = await floatBundleOf((folder) =>
    copyCheckpoint(vectors.folder, folder)
  );
  const session = await openSession({
    manifest,
    weights,
    backends: [backend],
    options: { threads: 1, softwareAdapter: true },
  });
  return { session, manifest };
}

async function checkLogits(
  session: ModelSession,
  { architecture: { vocabSize } }: Manifest,
  vectors: Vectors,
  test: ForwardCase,
): Promise<void> {
  const expected = vectors.array(test.logits);
  const length = test.input_ids[0].length;
  let most = 0, worst = 0, compared = 0;
  for (const { batchRow, columns, logits } of await replayForward(session, test, vocabSize)) {
    columns.forEach((column, i) => {
      if (test.compare_mask?.[batchRow][column] === 0) return;
      const from = (batchRow * length + column) * vocabSize;
      for (let id = 0; id < vocabSize; id++) {
        most = Math.max(most, Math.abs(expected[from + id]));
        worst = Math.max(worst, Math.abs(expected[from + id] - logits[i][id]));
        compared++;
      }
    });
  }
  assert(compared > 0 && worst <= 1e-3 * most, `${worst} apart, the largest logit is ${most}`);
}

/** Ours is the recorded row, pass by pass; where we may stop early, up to there. */
function checkStates(row: ReplayedTrace, trace: Trace): void {
  const { ours, expected, end, eos } = row;
  const { forward_calls: { total }, sampler } = trace;
  const stopped = end.finishReason === "stop";
  if (stopped) assert(eos.length > 0);
  else assertEquals(ours.length, expected.length, "states");
  // after a stop the reference may go on to fill its block, which nobody reads
  const comparable = stopped ? Math.min(ours.length, expected.length) : expected.length;
  for (let i = 0; i < comparable; i++) assertEquals(ours[i], expected[i], `state ${i}`);
  if (stopped) checkStop(row);
  else checkResult(row);
  const { forwardPasses } = end.usage;
  assert(forwardPasses <= total, `${forwardPasses} passes; the reference took ${total}`);
  const drawn = sampler === "dream.diffusion_generate" && trace.params.alg === "origin";
  if (!drawn) assertEquals(forwardPasses, ours.length - 1, "no pass that changes nothing");
}

/** The output ends with the stop id, and the recorded result holds the same up to there. */
function checkStop({ ours, prompt, eos, final }: ReplayedTrace): void {
  const last = ours[ours.length - 1];
  const stop = last.findIndex((id, i) => i >= prompt.length && eos.includes(id));
  assert(stop >= 0, "no stop id in the output");
  assertEquals(last.slice(0, stop + 1), final.slice(0, stop + 1));
}

/** The recorded result is ours, as far as both go: one reference cuts it, one appends a token of the next block. */
function checkResult({ ours, prompt, final }: ReplayedTrace): void {
  const last = ours[ours.length - 1];
  const length = Math.min(last.length, final.length);
  assert(length >= prompt.length);
  assertEquals(last.slice(0, length), final.slice(0, length));
}

/**
 * Quirks that are not copied: padding found by its id inside a text, a prompt that the model is never shown, a quota that
 * overwrites the prompt, a confidence read after top_k 1, masks left in the output. Ours always shows the whole prompt, keeps
 * it, and fills every position.
 */
function checkInstead({ ours, prompt, end }: ReplayedTrace, { params }: Trace): void {
  const last = ours[ours.length - 1];
  assertEquals(last.slice(0, prompt.length), [...prompt], "the prompt stays");
  assertEquals(end.finishReason, "length");
  assert(!last.includes(params.mask_id), "no mask is left");
  assertEquals(end.usage.forwardPasses, ours.length - 1);
}

Deno.test({
  name: "transfer schedules are those of the reference functions, to the bit",
  ...available("reference schedules", ok, `no folder ${root}`),
  fn: () => {
    const recorded = readSchedules();
    const tables = [
      { table: recorded.dllm_linear.table, name: "linear", epsilon: 0 },
      { table: recorded.dllm_cosine.table, name: "cosine", epsilon: 0 },
      { table: recorded.llada.table, name: "even", epsilon: 0 },
      { table: recorded.sdar.table, name: "even_block", epsilon: 0 },
      { table: recorded.dream["eps_0.001"], name: "timestep", epsilon: 0.001 },
      { table: recorded.dream["eps_0.1"], name: "timestep", epsilon: 0.1 },
    ] as const;
    let compared = 0;
    for (const { table, name, epsilon } of tables) {
      const rows = Object.entries(table as Record<string, Record<string, number[]>>);
      for (const [masked, row] of rows) {
        for (const [steps, expected] of Object.entries(row)) {
          const facts = { masked: +masked, steps: +steps, blockLength: +masked, epsilon };
          const quotas = transferSchedule(name, facts).map((step) => step.quota);
          const zerosDropped = name === "linear" || name === "cosine";
          assertEquals(zerosDropped ? quotas.filter((n) => n > 0) : quotas, expected);
          compared++;
        }
      }
    }
    assert(compared > 1000);
  },
});
