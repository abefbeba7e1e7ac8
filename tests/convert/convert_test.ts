import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { toFloat32 } from "../../src/convert/checkpoint.ts";
import { quantize } from "../../src/convert/quantize.ts";
import { EngineError } from "../../src/errors.ts";
import { dequantize8 } from "../../src/graph/storage.ts";
import { loadBundle } from "../../src/loader.ts";
import { randomFrom } from "../../src/random.ts";
import { parseSafetensors } from "../../src/safetensors.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";
import { inTempFolder } from "../support/temp_folder.ts";

Deno.test("quantize() stays within half a step of every weight, and round-trips its own output", () => {
  const random = randomFrom(1);
  const weights = new Float32Array(32 * 64).map((_, i) => (random() - 0.5) * 10 ** (i % 7 - 3));
  weights.fill(0, 64, 96);
  const { values, scales } = quantize(weights);
  const back = dequantize8(values, scales);
  weights.forEach((w, i) => {
    assert(Math.abs(back[i] - w) <= scales[i >> 5] * 0.5001, `${i}: ${w} became ${back[i]}`);
  });
  assertEquals(back.subarray(64, 96), new Float32Array(32));
  const again = quantize(back);
  assertEquals(again.values, values);
});

Deno.test("toFloat32() reads F16 and BF16 exactly, subnormals and infinities included", () => {
  const f16 = new Uint16Array([0x3c00, 0xc000, 0x0001, 0x0400, 0x7bff, 0x7c00, 0x8000]);
  assertEquals([...toFloat32(new Uint8Array(f16.buffer), "F16")], [
    1,
    -2,
    2 ** -24,
    2 ** -14,
    65504,
    Infinity,
    -0,
  ]);
  const bf16 = new Uint16Array([0x3f80, 0xc000, 0x3eab]);
  const [one, minusTwo, third] = toFloat32(new Uint8Array(bf16.buffer), "BF16");
  assertEquals([one, minusTwo], [1, -2]);
  assertAlmostEquals(third, 1 / 3, 1e-3);
});

Deno.test("convert writes the same bytes twice, from one file and from shards", () =>
  inTempFolder(async (folder) => {
    await writeCheckpoint(`${folder}/one`, { shards: 1 });
    await writeCheckpoint(`${folder}/three`, { shards: 3 });
    const hashes: string[] = [];
    for (const [source, target] of [["one", "a"], ["one", "b"], ["three", "c"]]) {
      const { files } = await convertCheckpoint({
        source: `${folder}/${source}`,
        target: `${folder}/${target}`,
        dtype: "q8",
      });
      hashes.push(files.weights.sha256);
    }
    assertEquals(new Set(hashes).size, 1);
    await loadBundle(`${folder}/c`); // verifies every hash
  }));

Deno.test("convert stores query heads group-major and keeps a matrix float that does not divide", () =>
  inTempFolder(async (folder) => {
    // hidden 48 is no multiple of 32, heads * headDim = 64 is
    await writeCheckpoint(`${folder}/source`, { shards: 1, hidden: 48 });
    await convertCheckpoint({
      source: `${folder}/source`,
      target: `${folder}/target`,
      dtype: "q8",
    });
    const read = (path: string) => {
      const file = Deno.readFileSync(path);
      return { file, header: parseSafetensors(file, path) };
    };
    const source = read(`${folder}/source/model.safetensors`);
    const target = read(`${folder}/target/weights.safetensors`);
    const q = target.header.tensors.get("layers.0.q.weight")!;
    assertEquals([q.dtype, q.shape], ["F32", [64, 48]]);
    assertEquals(target.header.tensors.get("layers.0.o.weight")!.dtype, "U8");
    const from = source.header.tensors.get("model.layers.0.self_attn.q_proj.weight")!;
    const rowBytes = 48 * 4, headDim = 16, kvHeads = 2, groups = 2;
    for (let group = 0; group < groups; group++) {
      for (let kv = 0; kv < kvHeads; kv++) {
        const theirs = from.offset + (kv * groups + group) * headDim * rowBytes;
        const ours = q.offset + (group * kvHeads + kv) * headDim * rowBytes;
        assertEquals(
          target.file.slice(ours, ours + headDim * rowBytes),
          source.file.slice(theirs, theirs + headDim * rowBytes),
        );
      }
    }
  }));

Deno.test("convert refuses what it cannot run, and names the fact and the choices", () =>
  inTempFolder(async (folder) => {
    const cases: [string, Record<string, unknown>, string][] = [
      ["alien", { model_type: "gpt9", architectures: ["Gpt9"] }, "a2d-qwen3"],
      ["activation", { hidden_act: "gelu" }, '"silu"'],
      ["rope", { rope_scaling: { type: "yarn" } }, "rope_scaling"],
      ["mask", { mask_token_id: undefined }, "mask_token_id"],
      ["shape", { intermediate_size: 128 }, "[128,64]"],
      ["outside", { mask_token_id: 5000 }, "outside the vocabulary"],
      ["layers", { num_hidden_layers: 9 }, "model.layers.2"],
    ];
    for (const [name, config, fact] of cases) {
      await writeCheckpoint(`${folder}/${name}`, { shards: 1, config });
      const error = await assertRejects(
        () =>
          convertCheckpoint({
            source: `${folder}/${name}`,
            target: `${folder}/${name}-out`,
            dtype: "q8",
          }),
        EngineError,
      );
      assert(error.message.includes(fact), error.message);
    }
    const left = [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();
    assertEquals(left, cases.map(([name]) => name).sort(), "no half bundle is left");
  }));

Deno.test("convert leaves no half bundle when the weights are cut off, and says where", () =>
  inTempFolder(async (folder) => {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    const path = `${folder}/source/model.safetensors`;
    const whole = await Deno.readFile(path);
    await Deno.writeFile(path, whole.subarray(0, whole.length - 100));
    await assertRejects(
      () => convertCheckpoint({ source: `${folder}/source`, target: `${folder}/t`, dtype: "q8" }),
      EngineError,
      "does not fit",
    );
    assertEquals([...Deno.readDirSync(folder)].length, 1);
  }));

Deno.test("convert replaces a bundle only when forced, and nothing else ever", () =>
  inTempFolder(async (folder) => {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    const options = { source: `${folder}/source`, target: `${folder}/t`, dtype: "fp32" } as const;
    await convertCheckpoint(options);
    await assertRejects(() => convertCheckpoint(options), EngineError, "--force");
    await Deno.writeTextFile(`${folder}/t/README.md`, "card");
    await convertCheckpoint({ ...options, force: true });
    await loadBundle(`${folder}/t`);
    assertEquals(await Deno.readTextFile(`${folder}/t/README.md`), "card");
    await Deno.mkdir(`${folder}/mine`);
    await Deno.writeTextFile(`${folder}/mine/notes.txt`, "keep");
    await assertRejects(
      () => convertCheckpoint({ ...options, target: `${folder}/mine`, force: true }),
      EngineError,
      "not a bundle",
    );
    assertEquals(await Deno.readTextFile(`${folder}/mine/notes.txt`), "keep");
  }));
