/** Rounding to each storage form, against code written plainly. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { ENCODERS } from "../../src/convert/encode.ts";
import { toFloat16 } from "../../src/convert/half.ts";
import type { Precision } from "../../src/convert/precision.ts";
import { quantize } from "../../src/convert/quantize.ts";
import { quantize4 } from "../../src/convert/quantize_q4.ts";
import { EngineError } from "../../src/errors.ts";
import { dequantize4 } from "../../src/graph/storage.ts";
import { type Dtype, DTYPES } from "../../src/manifest.ts";
import { randomFrom } from "../../src/random.ts";
import { encodeHeader, parseSafetensors } from "../../src/safetensors.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";
import { denseTensor } from "../support/dequantized.ts";
import { inTempFolder } from "../support/temp_folder.ts";

/** Every matrix in one form, the family's exceptions too. */
const everything = (dtype: Dtype): Precision => ({ [dtype]: { "*": dtype } });

/** Blocks as models have them and as they should not be: normal, long-tailed, one-sided, an outlier, tiny, huge. */
function blocks(): Float32Array {
  const random = randomFrom(9);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const makers: ((i: number) => number)[] = [
    normal,
    normal,
    () => normal() ** 3,
    () => Math.abs(normal()) + 1,
    () => -Math.abs(normal()),
    (i) => i === 5 ? 40 : normal(),
    () => normal() * 1e-30,
    () => (random() - 0.5) * 6e38,
  ];
  return Float32Array.from(
    { length: 32 * makers.length },
    (_, i) => makers[Math.floor(i / 32)](i % 32),
  );
}

/** The levels 0 … 15 of a block on a grid, and their squared error. */
function onGrid(block: readonly number[], scale: number, zero: number) {
  let error = 0;
  const levels = block.map((w) => {
    const values = Array.from({ length: 16 }, (_, level) => Math.abs(w - (level - zero) * scale));
    const nearest = values.indexOf(Math.min(...values));
    error += values[nearest] ** 2;
    return nearest;
  });
  return { levels, error };
}

Deno.test("quantize4() gives every weight the nearest level of its block's grid", () => {
  const weights = blocks();
  const { values, scales, zeros } = quantize4(weights);
  scales.forEach((scale, b) => {
    const zero = b % 2 === 0 ? zeros[b >> 1] & 15 : zeros[b >> 1] >> 4;
    const block = [...weights.subarray(b * 32, b * 32 + 32)];
    block.forEach((w, i) => {
      const byte = values[b * 16 + (i >> 1)];
      const level = i % 2 === 0 ? byte & 15 : byte >> 4;
      const off = Math.abs(w - (level - zero) * scale);
      for (let other = 0; other < 16; other++) {
        const otherOff = Math.abs(w - (other - zero) * scale);
        assert(off <= otherOff * (1 + 1e-9), `block ${b}, weight ${i}: ${level}, not ${other}`);
      }
    });
  });
});

Deno.test("quantize4() comes within 3 % of the best grid that an exhaustive search finds", () => {
  const weights = blocks();
  const { values, scales, zeros } = quantize4(weights);
  const back = dequantize4(values, scales, zeros);
  let ours = 0, best = 0;
  for (let b = 0; b < scales.length; b++) {
    const block = [...weights.subarray(b * 32, b * 32 + 32)];
    const range = Math.max(0, ...block) - Math.min(0, ...block);
    let least = Infinity;
    for (let zero = 0; zero < 16; zero++) {
      for (let share = 0.4; share < 1.2; share += 0.01) {
        least = Math.min(least, onGrid(block, range / 15 * share, zero).error);
      }
    }
    const error = block.reduce((sum, w, i) => sum + (w - back[b * 32 + i]) ** 2, 0);
    assert(error <= least * 1.15, `block ${b}: ${error} where ${least} was possible`);
    ours += error / least;
    best++;
  }
  assert(ours / best < 1.03, `${ours / best} on average`);
});

Deno.test("quantize4() gives blocks of zeros, and of numbers too small for a scale, back as zeros", () => {
  const weights = new Float32Array(64);
  weights.fill(1e-45, 32);
  const { values, scales, zeros } = quantize4(weights);
  assertEquals([...scales], [0, 0]);
  assertEquals([...dequantize4(values, scales, zeros)], new Array(64).fill(0));
  assertThrows(() => quantize4(new Float32Array(32)), RangeError, "32 weights");
});

Deno.test("quantize() over rows gives each output channel its own scale, largest magnitude / 127", () => {
  const weights = blocks();
  const { values, scales } = quantize(weights, 64);
  assertEquals(scales.length, weights.length / 64);
  weights.forEach((w, i) => {
    const row = weights.subarray(i - i % 64, i - i % 64 + 64);
    const scale = Math.fround(row.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127);
    assertEquals(scales[Math.floor(i / 64)], scale);
    assert(Math.abs((values[i] - 128) * scale - w) <= scale * 0.5001, `${i}`);
  });
});

Deno.test("toFloat16() rounds as DataView.setFloat16 does, ties, subnormals and overflow included", () => {
  const view = new DataView(new ArrayBuffer(4));
  const exact = (half: number) => (view.setUint16(0, half, true), view.getFloat16(0, true));
  const numbers: number[] = [65519.996, 65520, 70000, 1e30, 1e-45, 2 ** -25, 2 ** -25 * 1.0001];
  for (let half = 0; half < 0x7c00; half++) {
    const [low, high] = [exact(half), half === 0x7bff ? 65536 : exact(half + 1)];
    const middle = (low + high) / 2; // exact: float32 has 13 bits more
    view.setFloat32(0, middle, true);
    const bits = view.getUint32(0, true);
    const beside = [bits - 1, bits + 1].map((
      b,
    ) => (view.setUint32(0, b, true), view.getFloat32(0, true)));
    numbers.push(low, middle, ...beside);
  }
  const floats = Float32Array.from([...numbers, ...numbers.map((x) => -x)]);
  toFloat16(floats).forEach((half, i) => {
    view.setFloat16(0, floats[i], true);
    assertEquals(half, view.getUint16(0, true), `${floats[i]}`);
  });
});

Deno.test("every form encodes rows the same alone and together", () => {
  const random = randomFrom(2);
  const columns = 128, weights = new Float32Array(6 * columns).map(() => random() - 0.5);
  for (const form of DTYPES) {
    const bytes = (part: ArrayBufferView) => [
      ...new Uint8Array(part.buffer, part.byteOffset, part.byteLength),
    ];
    const whole = ENCODERS[form]({ weights, columns, source: "w" }).map(bytes);
    const pieces = whole.map(() => [] as number[]);
    for (let row = 0; row < 6; row += 2) {
      const some = weights.slice(row * columns, (row + 2) * columns);
      ENCODERS[form]({ weights: some, columns, source: "w" }).forEach((part, i) =>
        pieces[i].push(...bytes(part))
      );
    }
    assertEquals(pieces, whole, form);
  }
});

Deno.test("convert writes the same bytes twice in every form, a matrix in several pieces included", () =>
  inTempFolder(async (folder) => {
    const vocab = 20_000; // the embedding is more than the 1,048,576 weights that are in memory at once
    await writeCheckpoint(`${folder}/one`, { shards: 1, vocab });
    await writeCheckpoint(`${folder}/three`, { shards: 3, vocab });
    const source = await Deno.readFile(`${folder}/one/model.safetensors`);
    const { tensors } = parseSafetensors(source, "model.safetensors");
    const weights = denseTensor(source, tensors, "model.embed_tokens.weight").data;
    for (const dtype of DTYPES) {
      const hashes = [];
      for (const from of ["one", "one", "three"]) {
        const target = `${folder}/${dtype}-${hashes.length}`;
        const recipe = { name: "same", precision: everything(dtype) };
        const made = await convertCheckpoint({
          source: `${folder}/${from}`,
          target,
          dtype,
          recipe,
        });
        assertEquals(made.dtype, dtype);
        hashes.push(made.files.weights.sha256);
      }
      assertEquals(new Set(hashes).size, 1, dtype);
      const file = await Deno.readFile(`${folder}/${dtype}-0/weights.safetensors`);
      const header = parseSafetensors(file, "weights.safetensors");
      ENCODERS[dtype]({ weights, columns: 64, source: "" }).forEach((part, i) => {
        const { offset, length } = header.tensors.get(`embed.${["weight", "scales", "zeros"][i]}`)!;
        const expected = new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
        const found = file.subarray(offset, offset + length);
        assert(found.length === expected.length && found.every((byte, i) => byte === expected[i]));
      });
      for (const { offset } of header.tensors.values()) assertEquals(offset % 4, 0, "aligned");
    }
  }));

Deno.test("convert to fp16 refuses a weight beyond 65504, names its tensor and leaves nothing", () =>
  inTempFolder(async (folder) => {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    const path = `${folder}/source/model.safetensors`;
    const file = await Deno.readFile(path);
    const { tensors } = parseSafetensors(file, path);
    const name = "model.layers.1.mlp.up_proj.weight";
    const { offset } = tensors.get(name)!;
    new DataView(file.buffer).setFloat32(offset + 40, -70000, true);
    await Deno.writeFile(path, file);
    const convert = (dtype: "fp16" | "q4") =>
      convertCheckpoint({ source: `${folder}/source`, target: `${folder}/${dtype}`, dtype });
    const error = await assertRejects(() => convert("fp16"), EngineError, `${name} holds -70000`);
    assertEquals(error.code, "checkpoint_unsupported");
    assertEquals([...Deno.readDirSync(folder)].map((entry) => entry.name), ["source"]);
    await convert("q4"); // which has a scale for it
  }));

Deno.test("the header of a bundle tells the form of every matrix, and vectors are never rounded", () =>
  inTempFolder(async (folder) => {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    await convertCheckpoint({
      source: `${folder}/source`,
      target: `${folder}/b`,
      dtype: "q4",
      recipe: { name: "b", precision: everything("q4") },
    });
    const file = await Deno.readFile(`${folder}/b/weights.safetensors`);
    const { tensors } = parseSafetensors(file, "weights.safetensors");
    const shape = (name: string) => {
      const { dtype, shape } = tensors.get(name)!;
      return `${dtype} ${shape.join()}`;
    };
    assertEquals(shape("layers.0.q.weight"), "U8 64,2,16");
    assertEquals(shape("layers.0.q.scales"), "F32 64,2");
    assertEquals(shape("layers.0.q.zeros"), "U8 64,1");
    assertEquals(shape("layers.0.down.weight"), "U8 64,3,32", "96 columns are no pairs of blocks");
    assertEquals(shape("layers.0.attention_norm"), "F32 64");
    const size =
      encodeHeader([...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape })))
        .length;
    const total = [...tensors.values()].reduce((sum, { length }) => sum + length, size);
    assertEquals(file.length, total);
  }));
