/** One contract for every backend, on the trained model. */
import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import type { BackendName } from "../../src/backend/backend.ts";
import { Engine } from "../../src/engine.ts";
import type { CommitFrame } from "../../src/frame.ts";
import { type Bundle, loadBundle } from "../../src/loader.ts";
import { resolveOptions } from "../../src/options.ts";
import type { Candidates } from "../../src/sampler.ts";
import { type ModelSession, openSession } from "../../src/session.ts";
import { loadTokenizer } from "../../src/tokenizer.ts";
import { testBackends } from "../support/backends.ts";
import { decodeNaively } from "../support/oracle.ts";
import { available } from "../support/require.ts";
import { floatBundle, readGolden, TINY, unpackCheckpoint } from "../support/tiny.ts";

const open = ({ manifest, weights }: Bundle, backend: BackendName) =>
  openSession({
    manifest,
    weights,
    backends: [backend],
    options: { threads: 2, softwareAdapter: true },
  });

/** Largest difference of the candidates' logits, the ids being the same up to ties. */
function difference(a: Candidates, b: Candidates): number {
  assertEquals(a.logits.length, b.logits.length);
  let most = 0;
  a.logits.forEach((logit, i) => most = Math.max(most, Math.abs(logit - b.logits[i])));
  a.logSumExp.forEach((lse, i) => most = Math.max(most, Math.abs(lse - b.logSumExp[i])));
  return most;
}

const PROMPT = "/**\n * Returns the larger of two numbers.\n */\nexport function larger(a, b) {\n";

for (const { name, ok, why } of await testBackends()) {
  const contract = (title: string, fn: (session: ModelSession, bundle: Bundle) => Promise<void>) =>
    Deno.test({
      name: `${name}: ${title}`,
      ...available(name, ok, why),
      // ONNX Runtime and the GPU keep handles of their own for the life of the process
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        const bundle = await loadBundle(TINY);
        const session = await open(bundle, name);
        try {
          await fn(session, bundle);
        } finally {
          await session.close();
        }
      },
    });

  contract("cached, fused and batched passes give the candidates of the plain pass", async (
    session,
    bundle,
  ) => {
    const codec = loadTokenizer(bundle.tokenizerJson, bundle.tokenizerConfig);
    const { mask } = bundle.manifest.tokens;
    const text = codec.encode(PROMPT.repeat(8));
    const [blockLength, start, given] = [16, 144, 5]; // beyond the first growth of the cache
    const prefix = text.slice(0, start);
    const block = [
      ...text.slice(start, start + given),
      ...new Array(blockLength - given).fill(mask),
    ];
    const rows = block.map((_, i) => i).slice(given);
    const behind = { start, ids: block, blockLength, keep: 0, rows };
    const [plain] = await session.forward([{
      slot: 0,
      start: 0,
      ids: [...prefix, ...block],
      blockLength,
      keep: 0,
      rows: rows.map((row) => start + row),
    }]);
    await session.forward([
      { slot: 1, start: 0, ids: prefix.slice(0, 96), blockLength, keep: 96, rows: [] },
    ]);
    const [fused] = await session.forward([{
      slot: 1,
      start: 96,
      ids: [...prefix.slice(96), ...block],
      blockLength,
      keep: start - 96,
      rows: rows.map((row) => start - 96 + row),
    }]);
    const [cached] = await session.forward([{ ...behind, slot: 1 }]);
    // beside another sequence of another block length, another past and another length
    const other = { slot: 2, start: 8, ids: [...text.slice(8, 12), mask, mask], blockLength: 8 };
    await session.forward([
      { slot: 2, start: 0, ids: text.slice(0, 8), blockLength: 8, keep: 8, rows: [] },
    ]);
    const [alone] = await session.forward([{ ...other, keep: 0, rows: [4, 5] }]);
    const [left, right] = await session.forward([
      { ...behind, slot: 1 },
      { ...other, keep: 0, rows: [4, 5] },
    ]);
    // native multiplies in int8 with activations rounded per row: rounding flips are larger there
    const tolerance = name === "native" ? 0.05 : 1e-3;
    for (
      const [what, a, b] of [
        ["fused", plain, fused],
        ["cached", plain, cached],
        ["batched", plain, left],
        ["batched other", alone, right],
      ] as const
    ) {
      const most = difference(a, b);
      assert(most < tolerance, `${what}: ${most}`);
    }
    // a released slot starts from nothing
    await session.release(1);
    const [again] = await session.forward([
      { slot: 1, start: 0, ids: block, blockLength, keep: 0, rows },
    ]);
    assert(difference(plain, again) > tolerance, "without its prefix the block must differ");
  });

  contract("guidance goes beyond the conditional logits, each side over a cache of its own", async (
    session,
    bundle,
  ) => {
    const codec = loadTokenizer(bundle.tokenizerJson, bundle.tokenizerConfig);
    const { mask } = bundle.manifest.tokens;
    const prefix = codec.encode(PROMPT).slice(0, 16);
    const without = prefix.map(() => mask);
    const block = [...codec.encode("const ").slice(0, 2), ...new Array(6).fill(mask)];
    const watch = [7, 300, 41];
    const scale = 1.5;
    const common = { blockLength: 8, rows: [4, 7], watch };
    const plain = async (ids: number[]) => {
      const all = [...ids, ...block];
      const rows = common.rows.map((row) => 16 + row);
      const input = { ...common, slot: 0, start: 0, ids: all, keep: 0, rows };
      return (await session.forward([input]))[0].watched;
    };
    const conditional = await plain(prefix), unconditional = await plain(without);
    await session.forward([{
      ...common,
      slot: 1,
      start: 0,
      ids: prefix,
      keep: 16,
      rows: [],
      guidance: { scale, ids: without },
    }]);
    const guided = { ...common, start: 16, ids: block, keep: 0 };
    // beside an unguided one that watches other ids
    const [{ watched }, other] = await session.forward([
      { ...guided, slot: 1, guidance: { scale, ids: block } },
      { ...guided, slot: 2, cached: 0, watch: [300] },
    ]);
    const tolerance = name === "native" ? 0.4 : 2e-3; // int8 activations there, and the difference is scaled
    conditional.forEach((c, i) => {
      const expected = c + scale * (c - unconditional[i]);
      assert(Math.abs(watched[i] - expected) < tolerance, `${watched[i]} is not ${expected}`);
    });
    assert(conditional.some((c, i) => Math.abs(c - unconditional[i]) > 0.5), "sides must differ");
    assertEquals(other.watched.length, 2);
    assert(Math.abs(other.watched[0] - watched[1]) > 0.1, "no guidance crosses over");
  });

  contract("bad ids, rows and positions are refused before they reach the device", (session) => {
    const good = { slot: 0, start: 0, ids: [5, 6, 7, 8], blockLength: 4, keep: 4, rows: [0] };
    for (
      const bad of [
        { ids: [5, 6, 7, 99999] },
        { ids: [5, 6, 7, -1] },
        { ids: [] },
        { start: -1 },
        { start: 512 },
        { keep: 5 },
        { cached: 513 },
        { blockLength: 0 },
        { watch: [99999] },
        { guidance: { scale: 1, ids: [5, 6, 7] } },
        { rows: [4] },
      ]
    ) {
      assertThrows(() => session.forward([{ ...good, ...bad }]), RangeError);
    }
    return Promise.resolve();
  });

  contract("the engine writes what the naive oracle writes, id by id", async (session, bundle) => {
    const codec = loadTokenizer(bundle.tokenizerJson, bundle.tokenizerConfig);
    const { manifest } = bundle;
    const engine = new Engine(manifest, codec, session, { slots: 4 });
    const oracleSlot = 99; // never given by the engine's scheduler
    const cases = name === "webgpu" // a software adapter takes most of a second for a pass
      ? [{ blockLength: 16, maxTokens: 20, temperature: 0 }]
      : [4, 8, 16, 32].flatMap((blockLength) =>
        [0, 0.7].map((temperature) => ({ blockLength, maxTokens: 40, temperature }))
      );
    for (const options of cases) {
      const run = { ...options, seed: 3, confidenceThreshold: 0.7 };
      const prompt = engine.encodePrompt(PROMPT);
      const ids: number[] = [];
      for await (const frame of engine.denoise(prompt, run)) {
        if (frame.type !== "commit") continue;
        ids.push(
          ...(frame satisfies CommitFrame).tokens
            .filter((token) => token.state === "unmasked").map((token) => token.id),
        );
      }
      const expected = await decodeNaively(
        session,
        oracleSlot,
        prompt,
        resolveOptions(run, manifest, { promptTokens: prompt.length, randomSeed: 0 }),
        manifest,
      );
      assertEquals(ids, expected.ids, JSON.stringify(run));
    }
  });

  Deno.test({
    name: `${name}: the float32 graph gives PyTorch's logits on the trained checkpoint`,
    ...available(name, ok, why),
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const bundle = await floatBundle();
      const session = await open(bundle, name);
      const golden = await readGolden();
      const { vocabSize } = bundle.manifest.architecture;
      let most = 0;
      for (const test of golden.cases) {
        const logits = golden.logits(test.tensor);
        const start = test.prefixLength ?? 0;
        const common = { slot: 0, blockLength: test.blockLength };
        if (start > 0) {
          const ids = test.inputIds.slice(0, start);
          await session.forward([{ ...common, start: 0, ids, keep: start, rows: [] }]);
        }
        const [candidates] = await session.forward([{
          ...common,
          start,
          ids: test.inputIds.slice(start),
          keep: 0,
          rows: test.rows.map((row) => row - start),
        }]);
        test.rows.forEach((_, n) => {
          const row = logits.subarray(n * vocabSize, (n + 1) * vocabSize);
          const peak = row.reduce((a, b) => Math.max(a, b));
          const lse = peak + Math.log(row.reduce((sum, x) => sum + Math.exp(x - peak), 0));
          assertEquals(candidates.ids[n * candidates.width], test.top1[n]);
          assertAlmostEquals(candidates.logSumExp[n], lse, 1e-3);
          for (let k = 0; k < candidates.width; k++) {
            const at = n * candidates.width + k;
            most = Math.max(most, Math.abs(candidates.logits[at] - row[candidates.ids[at]]));
          }
        });
        await session.release(0);
      }
      await session.close();
      assert(golden.cases.length >= 3 && most < 1e-3, `largest difference ${most}`);
    },
  });
}

Deno.test("the shipped bundle is what convert makes of the shipped checkpoint", async () => {
  const { convertCheckpoint } = await import("../../src/convert/convert.ts");
  const folder = await Deno.makeTempDir();
  try {
    await unpackCheckpoint(`${folder}/source`);
    const made = await convertCheckpoint({
      source: `${folder}/source`,
      target: `${folder}/bundle`,
      dtype: "q8",
      recipe: JSON.parse(await Deno.readTextFile(new URL("recipe.json", TINY))),
    });
    const { manifest } = await loadBundle(TINY);
    assertEquals(made, manifest);
    const weights = await Deno.readFile(`${folder}/source/model.safetensors`);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", weights));
    const { origin } = await readGolden();
    assertEquals(digest.toHex(), origin.weightsSha256, "golden logits are of other weights");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
