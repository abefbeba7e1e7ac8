/** Every storage form on every backend: one matrix times a few rows, and rows of an embedding, against plain arithmetic. */
import { assert, assertEquals } from "@std/assert";
import type { BackendName, HostTensor } from "../../src/backend/backend.ts";
import { ENCODERS } from "../../src/convert/encode.ts";
import { formOf, storedForm, storedTensors } from "../../src/graph/storage.ts";
import { type Dtype, DTYPES } from "../../src/manifest.ts";
import { randomFrom } from "../../src/random.ts";
import { encodeHeader, parseSafetensors } from "../../src/safetensors.ts";
import { testBackends } from "../support/backends.ts";
import { denseTensor } from "../support/dequantized.ts";
import { available } from "../support/require.ts";
import { openGraph } from "../support/run_graph.ts";

const ROWS = 64, COLUMNS = 192, INPUTS = 7;

/** A weights file that holds one random matrix under two names, and a bias. */
function weightsFile(form: Dtype): Uint8Array {
  const random = randomFrom(3);
  const weights = new Float32Array(ROWS * COLUMNS).map(() => (random() - 0.4) ** 3);
  weights.fill(1, 0, COLUMNS); // with inputs(): sums that a 16-bit product of bytes would cut off
  const bias = new Float32Array(ROWS).map(() => random() - 0.5);
  const encoded = ENCODERS[form]({ weights, columns: COLUMNS, source: "w" });
  const header = encodeHeader([
    ...storedTensors("w", form, [ROWS, COLUMNS]),
    ...storedTensors("embed", form, [ROWS, COLUMNS]),
    { name: "w.bias", dtype: "F32", shape: [ROWS] },
  ]);
  const parts = [header, ...encoded, ...encoded, bias];
  const file = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    file.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
    at += part.byteLength;
  }
  return file;
}

/** Rows of very different size, then one of ones and one of zeros. */
function inputs(): Float32Array {
  const random = randomFrom(4);
  return new Float32Array(INPUTS * COLUMNS).map((_, i) => {
    const row = Math.floor(i / COLUMNS);
    if (row >= INPUTS - 2) return INPUTS - 1 - row;
    return (random() - 0.5) * 10 ** (row - 2);
  });
}

async function run(
  name: BackendName,
  file: Uint8Array,
  build: Parameters<typeof openGraph>[2],
  feeds: Record<string, HostTensor>,
): Promise<Float32Array> {
  const { run, close } = await openGraph(name, file, build);
  const y = await run(feeds);
  await close();
  return y;
}

const levels = (x: Float32Array) => {
  const scale = Math.fround(x.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127);
  return { scale, values: [...x].map((value) => scale === 0 ? 0 : Math.round(value / scale)) };
};

for (const { name, ok, why } of await testBackends()) {
  for (const form of DTYPES) {
    const test = (title: string, fn: () => Promise<void>) =>
      Deno.test({
        name: `${name}: ${form}: ${title}`,
        ...available(name, ok, why),
        sanitizeOps: false,
        sanitizeResources: false,
        fn,
      });

    test("a product is within rounding of the dequantised matrix's", async () => {
      const file = weightsFile(form);
      const { tensors } = parseSafetensors(file, "weights.safetensors");
      const w = denseTensor(file, tensors, "w.weight").data;
      const bias = denseTensor(file, tensors, "w.bias").data;
      const x = inputs();
      const y = await run(name, file, (graph, layout) => {
        graph.input("x", "float32", ["T", COLUMNS]);
        const product = layout.linear(graph, "x", "w");
        graph.node("Identity", [product], {}, { outputs: ["y"] });
        graph.output("y", "float32", ["T", ROWS]);
      }, { x: { type: "float32", dims: [INPUTS, COLUMNS], data: x } });
      assertEquals(y.length, INPUTS * ROWS);
      // A CPU that multiplies in whole numbers rounds each activation by half a step of its row or block at most.
      const integer = form === "w8a8" && name !== "webgpu";
      const blocks = (form === "q4" || form === "q8") && name === "native";
      for (let t = 0; t < INPUTS; t++) {
        const row = x.subarray(t * COLUMNS, (t + 1) * COLUMNS);
        const whole = levels(row);
        for (let n = 0; n < ROWS; n++) {
          let exact = 0, size = 0, allowed = 0, inWholeNumbers = 0;
          for (let k = 0; k < COLUMNS; k++) {
            const weight = w[n * COLUMNS + k];
            exact += row[k] * weight;
            size += Math.abs(row[k] * weight);
            inWholeNumbers += whole.values[k] * whole.scale * weight;
            const block = row.subarray(k - k % 32, k - k % 32 + 32);
            const step = integer ? whole.scale : blocks ? levels(block).scale : 0;
            allowed += step / 2 * Math.abs(weight);
          }
          const float = 1e-6 * (size + Math.abs(bias[n]));
          const got = y[t * ROWS + n], at = `row ${t}, output ${n}`;
          const off = Math.abs(got - exact - bias[n]);
          assert(off <= allowed * 1.001 + float, `${at}: ${off} of ${allowed}`);
          if (!integer) continue;
          const offWhole = Math.abs(got - inWholeNumbers - bias[n]);
          assert(offWhole <= 4 * float, `${at}: ${offWhole} from whole numbers`);
        }
      }
    });

    test("rows of the embedding are the dequantised ones", async () => {
      const file = weightsFile(form);
      const { tensors } = parseSafetensors(file, "weights.safetensors");
      const table = denseTensor(file, tensors, "embed.weight").data;
      const ids = [0, ROWS - 1, 7, 7];
      const y = await run(name, file, (graph, layout) => {
        graph.input("ids", "int64", ["B", "L"]);
        graph.node("Identity", [layout.embed(graph, "ids")], {}, { outputs: ["y"] });
        graph.output("y", "float32", ["B", "L", COLUMNS]);
      }, { ids: { type: "int64", dims: [1, 4], data: BigInt64Array.from(ids, BigInt) } });
      assertEquals(y.length, ids.length * COLUMNS);
      y.forEach((value, i) => {
        const expected = table[ids[Math.floor(i / COLUMNS)] * COLUMNS + i % COLUMNS];
        assert(Math.abs(value - expected) <= 1e-6 * Math.abs(expected), `${i}: ${value}`);
      });
    });
  }
}

Deno.test("the form of a matrix is read back from the tensors that store it", () => {
  for (const form of DTYPES) {
    const { tensors } = parseSafetensors(weightsFile(form), "weights.safetensors");
    const info = tensors.get("w.weight")!;
    assertEquals(formOf("w", info), { form, shape: [ROWS, COLUMNS] });
  }
});

Deno.test("a matrix that a form cannot hold in whole blocks and words takes the next one", () => {
  assertEquals(storedForm("q4", [4, 128]), "q4");
  assertEquals(storedForm("q4", [4, 96]), "q8", "three blocks are no pairs");
  assertEquals(storedForm("q4", [3, 128]), "q8", "six bytes of zeros");
  assertEquals(storedForm("q8", [3, 96]), "q8");
  for (const form of ["q4", "q8", "w8a8"] as const) assertEquals(storedForm(form, [4, 48]), "fp32");
  assertEquals(storedForm("fp16", [3, 5]), "fp32", "thirty bytes");
  assertEquals(storedForm("fp16", [3, 6]), "fp16");
  assertEquals(storedForm("fp32", [3, 5]), "fp32");
});
