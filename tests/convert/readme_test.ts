import { assert, assertEquals } from "@std/assert";
import { loadFamilies } from "../../src/convert/family.ts";
import { choosePrecision } from "../../src/convert/precision.ts";
import { storedForm, storedTensors } from "../../src/graph/storage.ts";
import { DTYPES } from "../../src/manifest.ts";
import { tensorBytes } from "../../src/safetensors.ts";

/** Sizes of a model, from its published config (the first: models/tiny/model.json). */
interface ModelShape {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Of the layers that are no mixture. */
  readonly ffn: number;
  readonly vocab: number;
  readonly tied?: boolean;
  /** Elements of norms and biases of a layer, beside the two of its width. */
  readonly vectors: number;
  readonly experts?: { readonly count: number; readonly ffn: number; readonly shared: number };
  /** Layers before the mixtures. */
  readonly dense?: number;
  readonly bidirectional?: boolean;
}

const qwen3 = (layers: number, hidden: number, heads: number, ffn: number, tied: boolean) => ({
  ...{ layers, hidden, heads, kvHeads: 8, headDim: 128, ffn, vocab: 151936, tied, vectors: 256 },
});

const SHAPES: Readonly<Record<string, ModelShape>> = {
  "tiny (ships)": {
    ...{ layers: 6, hidden: 192, heads: 6, kvHeads: 3, headDim: 32, ffn: 512, vocab: 4096 },
    ...{ tied: true, vectors: 64 },
  },
  "Qwen3 0.6B": qwen3(28, 1024, 16, 3072, true),
  "SDAR 1.7B": qwen3(28, 2048, 16, 6144, true),
  "SDAR 4B": qwen3(36, 2560, 32, 9728, true),
  "SDAR 8B": qwen3(36, 4096, 32, 12288, false),
  "LLaDA 8B": {
    ...{ layers: 32, hidden: 4096, heads: 32, kvHeads: 32, headDim: 128, ffn: 12288 },
    ...{ vocab: 126464, vectors: 0, bidirectional: true },
  },
  "Dream 7B": {
    ...{ layers: 28, hidden: 3584, heads: 28, kvHeads: 4, headDim: 128, ffn: 18944 },
    ...{ vocab: 152064, vectors: 3584 + 2 * 512, bidirectional: true },
  },
  "LLaDA-MoE 7B": {
    ...{ layers: 16, hidden: 2048, heads: 16, kvHeads: 16, headDim: 128, ffn: 0, dense: 0 },
    ...{ vocab: 157184, vectors: 256, bidirectional: true },
    experts: { count: 64, ffn: 1024, shared: 0 },
  },
  "LLaDA2.0 mini": {
    ...{ layers: 20, hidden: 2048, heads: 16, kvHeads: 4, headDim: 128, ffn: 5120, dense: 1 },
    ...{ vocab: 157184, vectors: 256 },
    experts: { count: 256, ffn: 512, shared: 512 },
  },
};

/** Matrices of a shape by our names, as [rows, columns]. */
function matricesOf(shape: ModelShape): [string, readonly [number, number]][] {
  const { layers, hidden, heads, kvHeads, headDim, ffn, vocab, tied, experts, dense } = shape;
  const q = heads * headDim, kv = kvHeads * headDim;
  const attention = { q: [q, hidden], k: [kv, hidden], v: [kv, hidden], o: [hidden, q] } as const;
  const gated = (prefix: string, size: number) => ({
    [`${prefix}gate`]: [size, hidden],
    [`${prefix}up`]: [size, hidden],
    [`${prefix}down`]: [hidden, size],
  });
  const mixture = experts === undefined ? {} : {
    router: [experts.count, hidden],
    "experts.gate_up": [experts.count * 2 * experts.ffn, hidden],
    "experts.down": [experts.count * hidden, experts.ffn],
    ...(experts.shared > 0 ? gated("shared.", experts.shared) : {}),
  };
  const ends = tied === true ? ["embed"] : ["embed", "head"];
  const named = (name: string, size: readonly number[]): [string, readonly [number, number]] => [
    `${name}.weight`,
    [size[0], size[1]],
  ];
  return [
    ...ends.map((name) => named(name, [vocab, hidden])),
    ...Array.from({ length: layers }, (_, i) => {
      const isMixture = experts !== undefined && i >= (dense ?? 0);
      const inner = isMixture ? mixture : gated("", ffn);
      return Object.entries({ ...attention, ...inner }).map(([name, size]) =>
        named(`layers.${i}.${name}`, size)
      );
    }).flat(),
  ];
}

Deno.test("the memory table of models/README.md is what the shapes give", async () => {
  const text = await Deno.readTextFile(new URL("../../models/README.md", import.meta.url));
  const readme = text.replaceAll(/ +/g, " "); // the formatter pads cells
  const format = (value: number) =>
    value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
  const families = await loadFamilies();
  for (const [name, shape] of Object.entries(SHAPES)) {
    const { layers, hidden, kvHeads, headDim, experts, dense = 0 } = shape;
    const family = families.find(({ modelType, architectures }) =>
      experts === undefined
        ? modelType === "a2d-qwen3"
        : architectures.includes(dense === 0 ? "LLaDAMoEModelLM" : "LLaDA2MoeModelLM")
    )!;
    const matrices = matricesOf(shape);
    const choiceBias = dense > 0 && experts !== undefined ? (layers - dense) * experts.count : 0;
    const vectors = layers * (2 * hidden + shape.vectors) + hidden + choiceBias;
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
      shape.bidirectional
        ? "none"
        : `${format(layers * 2 * kvHeads * headDim * 4 * 4096 / 1e6)} MB`,
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
