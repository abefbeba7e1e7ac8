import { assert, assertEquals } from "@std/assert";
import { Engine } from "../../src/engine.ts";
import type { CommitFrame, DraftFrame } from "../../src/frame.ts";
import { openSession } from "../../src/session.ts";
import { byteTokenizer } from "../support/byte_tokenizer.ts";
import { copyCheckpoint, floatBundleOf } from "../support/checkpoint.ts";
import { available } from "../support/require.ts";
import { openVectors, type Trace, vectorsAvailable } from "../support/vectors.ts";

const { ok, root } = vectorsAvailable();

/**
 * Quirks of the reference that are not copied: with top_k 1 it reads the confidence after the filter (always 1.0), and a
 * static quota larger than the masks left overwrites the prompt.
 */
const isQuirk = ({ name }: Trace) => name.startsWith("quirk_");

Deno.test({
  name: "SDAR traces are decoded state by state, with no call for prefill or commit",
  ...available("reference vectors", ok, `no folder ${root}`),
  fn: async (t) => {
    const vectors = openVectors("sdar-dense");
    const bundle = await floatBundleOf((folder) => copyCheckpoint(vectors.folder, folder));
    const { mask } = bundle.manifest.tokens;
    const session = await openSession({
      ...bundle,
      backends: ["wasm"],
      options: { threads: 1, softwareAdapter: false },
    });
    for (const trace of vectors.traces.filter((trace) => !isQuirk(trace))) {
      await t.step(trace.name, async () => {
        const { params, prompts: [prompt], states } = trace;
        const manifest = {
          ...bundle.manifest,
          // the traces name their own stop ids, often none: the mask is never proposed
          tokens: { mask, eos: params.stop_ids.length > 0 ? [...params.stop_ids] : [mask] },
          blockLength: { default: params.block_length, trained: [params.block_length] },
        };
        const engine = new Engine(manifest, byteTokenizer(), session);
        const frames = engine.denoise(prompt, {
          maxTokens: states[0][0].length - prompt.length,
          unmasking: params.remasking_strategy ?? "low_confidence_dynamic",
          confidenceThreshold: params.confidence_threshold ?? params.threshold,
          denoisingSteps: params.denoising_steps,
        });
        let step = 0,
          settled = Math.floor(prompt.length / params.block_length) *
            params.block_length;
        for await (const frame of frames) {
          if (frame.type === "end") {
            assertEquals(frame.usage.forwardPasses, step);
            // a stop ends us once nothing before it is masked; the reference fills its block first
            if (params.stop_ids.length === 0) assertEquals(step, states.length - 1);
            else assertEquals(frame.finishReason, "stop");
          }
          if (frame.type !== "draft" && frame.type !== "commit") continue;
          const { tokens } = frame satisfies DraftFrame | CommitFrame;
          const expected = states[++step][0].slice(settled, settled + tokens.length);
          assertEquals(tokens.map((token) => token.id), expected, `step ${step}`);
          if (frame.type === "commit") settled += tokens.length;
        }
        assert(step > 0);
      });
    }
    await session.close();
  },
});
