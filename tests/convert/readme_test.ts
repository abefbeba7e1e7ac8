import { assert, assertEquals } from "@std/assert";

/** layers, hidden, heads, kvHeads, headDim, ffn, vocab, tied: from the published configs, and models/tiny/model.json. */
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  "tiny (ships)": [6, 192, 6, 3, 32, 512, 4096, 1],
  "Qwen3 0.6B": [28, 1024, 16, 8, 128, 3072, 151936, 1],
  "Qwen3 1.7B": [28, 2048, 16, 8, 128, 6144, 151936, 1],
  "Qwen3 4B": [36, 2560, 32, 8, 128, 9728, 151936, 1],
  "Qwen3 8B": [36, 4096, 32, 8, 128, 12288, 151936, 0],
};

Deno.test("the memory table of models/README.md is what the shapes give", async () => {
  const text = await Deno.readTextFile(new URL("../../models/README.md", import.meta.url));
  const readme = text.replaceAll(/ +/g, " "); // the formatter pads cells
  const format = (value: number) =>
    value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
  for (const [name, shape] of Object.entries(SHAPES)) {
    const [layers, hidden, heads, kvHeads, headDim, ffn, vocab, tied] = shape;
    const layer = hidden * headDim * (2 * heads + 2 * kvHeads) + 3 * hidden * ffn;
    const matrices = vocab * hidden * (2 - tied) + layers * layer;
    const vectors = layers * (2 * hidden + 2 * headDim) + hidden;
    const cells = [
      name,
      `${format((matrices + vectors) / 1e6)} M`,
      `${format((matrices * (1 + 4 / 32) + vectors * 4) / 1e6)} MB`,
      `${format((matrices + vectors) * 4 / 1e6)} MB`,
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
