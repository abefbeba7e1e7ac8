import { assert, assertEquals } from "@std/assert";
import { loadFamilies } from "../../src/convert/family.ts";
import { choosePrecision } from "../../src/convert/precision.ts";
import { storedForm, storedTensors } from "../../src/graph/storage.ts";
import { DTYPES } from "../../src/manifest.ts";
import { tensorBytes } from "../../src/safetensors.ts";

/** layers, hidden, heads, kvHeads, headDim, ffn, vocab, tied: from the published configs, and models/tiny/model.json. */
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  "tiny (ships)": [6, 192, 6, 3, 32, 512, 4096, 1],
  "Qwen3 0.6B": [28, 1024, 16, 8, 128, 3072, 151936, 1],
  "Qwen3 1.7B": [28, 2048, 16, 8, 128, 6144, 151936, 1],
  "Qwen3 4B": [36, 2560, 32, 8, 128, 9728, 151936, 1],
  "Qwen3 8B": [36, 4096, 32, 8, 128, 12288, 151936, 0],
};

/** Matrices of a shape by our names, as [rows, columns]. */
function matricesOf(shape: readonly number[]): [string, readonly [number, number]][] {
  const [layers, hidden, heads, kvHeads, headDim, ffn, vocab, tied] = shape;
  const q = heads * headDim, kv = kvHeads * headDim;
  const layer = {
    q: [q, hidden],
    k: [kv, hidden],
    v: [kv, hidden],
    o: [hidden, q],
    gate: [ffn, hidden],
    up: [ffn, hidden],
    down: [hidden, ffn],
  } as const;
  const ends = tied === 1 ? ["embed"] : ["embed", "head"];
  return [
    ...ends.map((name) => [`${name}.weight`, [vocab, hidden]] as [string, [number, number]]),
    ...Array.from(
      { length: layers },
      (_, i) =>
        Object.entries(layer).map(([name, size]) =>
          [`layers.${i}.${name}.weight`, size] as [string, readonly [number, number]]
        ),
    ).flat(),
  ];
}

Deno.test("the memory table of models/README.md is what the shapes give", async () => {
  const text = await Deno.readTextFile(new URL("../../models/README.md", import.meta.url));
  const readme = text.replaceAll(/ +/g, " "); // the formatter pads cells
  const format = (value: number) =>
    value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
  const [family] = await loadFamilies();
  for (const [name, shape] of Object.entries(SHAPES)) {
    const [layers, hidden, , kvHeads, headDim] = shape;
    const matrices = matricesOf(shape);
    const vectors = layers * (2 * hidden + 2 * headDim) + hidden;
    const parameters = matrices.reduce((sum, [, [n, k]]) => sum + n * k, vectors);
    const bytes = DTYPES.map((dtype) => {
      const precision = choosePrecision(dtype, { tables: [family.precision], layers });
      return matrices.reduce(
        (sum, [matrix, size]) =>
          storedTensors("", storedForm(precision(matrix), size), size).reduce(
            (all, tensor) => all + tensorBytes(tensor.dtype, tensor.shape),
            sum,
          ),
        vectors * 4,
      );
    });
    const cells = [
      name,
      `${format(parameters / 1e6)} M`,
      ...bytes.map((size) => `${format(size / 1e6)} MB`),
      `${format(layers * 2 * kvHeads * headDim * 4 * 4096 / 1e6)} MB`,
    ];
    assert(readme.includes(`| ${cells.join(" | ")} |`), `expected: | ${cells.join(" | ")} |`);
  }
});

Deno.test("models/README.md names every key of a family file", async () => {
  const readme = await Deno.readTextFile(new URL("../../models/README.md", import.meta.url));
  const family = JSON.parse(
    await Deno.readTextFile(new URL("../../models/families/a2d-qwen3.json", import.meta.url)),
  );
  const missing = Object.keys(family).filter((key) => !readme.includes(`\`${key}\``));
  assertEquals(missing, ["about"]);
});
