/**
 * Speed of one generation, variants interleaved in one run, medians with spread:
 * `deno task bench [--rounds 15] [--backends wasm:1,native:2] [--dtypes q8,w8a8] [--shape tiny]`.
 *
 * The variants are CPU backends, thread counts and storage forms; every round runs each of them once, so that a noisy
 * machine hurts all alike. The shape `tiny` is the trained model, `55m` a random one of 54.5 million parameters (12 layers,
 * width 512, 16,384 tokens), because the time of a pass does not depend on the weights' values.
 */
import { parseArgs } from "node:util";
import { type Bundle, type Engine, loadBundle, loadEngine } from "../../src/mod.ts";
import { type Dtype, DTYPES } from "../../src/manifest.ts";
import { convertedBundle, writeCheckpoint } from "../support/checkpoint.ts";
import { TINY, unpackCheckpoint } from "../support/tiny.ts";

const SHAPES: Readonly<Record<string, (folder: string) => Promise<void>>> = {
  tiny: unpackCheckpoint,
  "55m": (folder) =>
    writeCheckpoint(folder, {
      shards: 1,
      hidden: 512,
      vocab: 16384,
      layers: 12,
      heads: 8,
      kvHeads: 4,
      headDim: 64,
      ffn: 1536,
      config: { block_size: 16, max_position_embeddings: 512 },
    }),
};

const { values } = parseArgs({
  args: Deno.args,
  options: {
    rounds: { type: "string", default: "15" },
    backends: { type: "string", default: "wasm:1,wasm:2,native:1,native:2" },
    dtypes: { type: "string", default: "q8" },
    shape: { type: "string", default: "tiny" },
  },
});
const rounds = Number(values.rounds);
const fill = SHAPES[values.shape];
if (fill === undefined) throw new Error(`--shape must be one of ${Object.keys(SHAPES).join(", ")}`);

const { tokenizerJson, tokenizerConfig } = await loadBundle(TINY); // a random model has none
const bundles = new Map<Dtype, Bundle>();
for (const asked of values.dtypes.split(",")) {
  const dtype = DTYPES.find((name) => name === asked);
  if (dtype === undefined) throw new Error(`--dtypes must be of ${DTYPES.join(", ")}`);
  const bundle = await convertedBundle(fill, dtype);
  bundles.set(dtype, { ...bundle, tokenizerJson, tokenizerConfig });
}
const engines: { name: string; engine: Engine; perPass: number[]; first: number[] }[] = [];
for (const variant of values.backends.split(",")) {
  const [backend, threads] = variant.split(":");
  if (backend !== "wasm" && backend !== "native") {
    throw new Error("--backends must be of wasm:THREADS, native:THREADS");
  }
  for (const [dtype, bundle] of bundles) {
    const engine = await loadEngine(bundle, { backend, threads: Number(threads) });
    engines.push({ name: `${variant} ${dtype}`, engine, perPass: [], first: [] });
  }
}

/** Milliseconds of a forward pass, and until the first frame, of one generation behind a short prompt. */
async function measure(engine: Engine): Promise<[perPass: number, first: number]> {
  const { vocabSize } = engine.manifest.architecture;
  const prompt = Array.from({ length: 24 }, (_, i) => 100 + (i * 37) % (vocabSize - 100));
  const frames = engine.denoise(prompt, {
    maxTokens: 48,
    blockLength: 16,
    unmasking: "low_confidence_static",
  });
  for await (const frame of frames) {
    if (frame.type !== "end") continue;
    const { timings, usage } = frame;
    return [(timings.totalMs - timings.queueMs) / usage.forwardPasses, timings.firstFrameMs];
  }
  throw new Error("the generation ended without an end frame");
}

for (let round = -2; round < rounds; round++) { // two rounds to warm up
  for (const { engine, perPass, first } of engines) {
    const [pass, frame] = await measure(engine);
    if (round < 0) continue;
    perPass.push(pass);
    first.push(frame);
  }
}
const quantile = (list: number[], q: number) =>
  [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) * q)].toFixed(1);
console.log(`${values.shape}, ${rounds} rounds, ms: median (10 % – 90 %)`);
for (const { name, engine, perPass, first } of engines) {
  const row = (list: number[]) =>
    `${quantile(list, 0.5)} (${quantile(list, 0.1)} – ${quantile(list, 0.9)})`;
  console.log(
    `${name.padEnd(14)} forward pass ${row(perPass).padEnd(22)} first frame ${row(first)}`,
  );
  await engine.close();
}
