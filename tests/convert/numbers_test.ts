import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { toFloat32 } from "../../src/convert/checkpoint.ts";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { allFinite, quantize } from "../../src/convert/quantize.ts";
import { dequantize8 } from "../../src/graph/storage.ts";
import { randomFrom } from "../../src/random.ts";
import { parseSafetensors } from "../../src/safetensors.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";

function roundTrip(weights: Float32Array): Float32Array {
  const { values, scales } = quantize(weights);
  return dequantize8(values, scales);
}

Deno.test("quantize() rounds half to even", () => {
  const weights = new Float32Array(32);
  weights.set([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]);
  assertEquals([...roundTrip(weights).subarray(0, 7)], [127, 0, 2, 2, 0, -2, -2]);
});

Deno.test("quantize() gives a block that is too small for a scale the scale 0", () => {
  const { values, scales } = quantize(new Float32Array(32).fill(1e-45));
  assertEquals([...scales], [0]);
  assert(values.every((value) => value === 128));
});

Deno.test("quantize() stays within 1..255 at both ends of the float32 range", () => {
  for (const most of [3.4028234663852886e38, 1.2e-38, 2e-43]) {
    const { values } = quantize(Float32Array.from({ length: 32 }, (_, i) => i % 2 ? most : -most));
    assertEquals([values[0], values[1]], [1, 255]);
  }
});

Deno.test("quantize() refuses weights that are no whole blocks", () => {
  assertThrows(() => quantize(new Float32Array(33)), RangeError, "33 weights");
});

Deno.test("toFloat32() reads every float16 as DataView.getFloat16 does", () => {
  const words = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const decoded = toFloat32(new Uint8Array(words.buffer), "F16");
  const view = new DataView(words.buffer);
  for (let i = 0; i < 65536; i++) {
    assert(Object.is(decoded[i], view.getFloat16(2 * i, true)), `bits ${i}`);
  }
});

Deno.test("allFinite() finds NaN and both infinities", () => {
  assert(allFinite(Float32Array.of(1, -0, 3.4e38)));
  for (const bad of [NaN, Infinity, -Infinity]) assert(!allFinite(Float32Array.of(1, bad)));
});

/** x [L, K] times the transpose of w [N, K]: [L, N]. */
function linear(x: Float32Array, w: Float32Array, columns: number): Float32Array {
  const [rows, width] = [x.length / columns, w.length / columns];
  const out = new Float32Array(rows * width);
  for (let r = 0; r < rows; r++) {
    for (let n = 0; n < width; n++) {
      for (let k = 0; k < columns; k++) {
        out[r * width + n] += x[r * columns + k] * w[n * columns + k];
      }
    }
  }
  return out;
}

/** Softmax attention of every head; head h of q [Q, heads * dim] sees head keyHead(h) of k and v [L, kvHeads * dim]. */
function attend(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  { heads, kvHeads, dim }: { heads: number; kvHeads: number; dim: number },
  keyHead: (head: number) => number,
): Float32Array {
  const width = heads * dim, keyWidth = kvHeads * dim;
  const out = new Float32Array(q.length);
  for (let row = 0; row < q.length; row += width) {
    for (let h = 0; h < heads; h++) {
      const at = row + h * dim;
      const of = (l: number) => l * keyWidth + keyHead(h) * dim;
      const weights = Array.from({ length: k.length / keyWidth }, (_, l) => {
        let dot = 0;
        for (let d = 0; d < dim; d++) dot += q[at + d] * k[of(l) + d];
        return Math.exp(dot / Math.sqrt(dim));
      });
      const sum = weights.reduce((a, b) => a + b);
      for (let d = 0; d < dim; d++) {
        out[at + d] = weights.reduce((mean, w, l) => mean + w / sum * v[of(l) + d], 0);
      }
    }
  }
  return out;
}

Deno.test("group-major q and o give the attention of the checkpoint's own order", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    await convertCheckpoint({ source: `${folder}/source`, target: `${folder}/b`, dtype: "fp32" });
    const tensor = (file: string, name: string) => {
      const bytes = Deno.readFileSync(`${folder}/${file}`);
      const info = parseSafetensors(bytes, file).tensors.get(name)!;
      return new Float32Array(bytes.slice(info.offset, info.offset + info.length).buffer);
    };
    const theirs = (part: string) =>
      tensor("source/model.safetensors", `model.layers.1.self_attn.${part}_proj.weight`);
    const ours = (part: string) => tensor("b/weights.safetensors", `layers.1.${part}.weight`);
    const heads = 4, kvHeads = 2, groups = 2, dim = 16, hidden = 64, length = 5;
    const random = randomFrom(3);
    const floats = (count: number) => new Float32Array(count).map(() => random() - 0.5);
    const x = floats(length * hidden);
    const k = floats(length * kvHeads * dim), v = floats(length * kvHeads * dim);

    const naive = linear(
      attend(
        linear(x, theirs("q"), hidden),
        k,
        v,
        { heads, kvHeads, dim },
        (h) => Math.floor(h / groups),
      ),
      theirs("o"),
      heads * dim,
    );
    // As graph/transformer.ts reads it: [L, groups * kvHeads * dim] is [L * groups, kvHeads * dim].
    const grouped = linear(
      attend(linear(x, ours("q"), hidden), k, v, { heads: kvHeads, kvHeads, dim }, (h) => h),
      ours("o"),
      heads * dim,
    );
    assert(theirs("q").some((value, i) => value !== ours("q")[i]), "the order must differ");
    naive.forEach((value, i) => assertAlmostEquals(grouped[i], value, 1e-5));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
