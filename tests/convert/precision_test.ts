import { assert, assertEquals, assertRejects } from "@std/assert";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { loadFamilies } from "../../src/convert/family.ts";
import { checkPatterns, choosePrecision, type Precision } from "../../src/convert/precision.ts";
import { EngineError } from "../../src/errors.ts";
import { formOf } from "../../src/graph/storage.ts";
import { parseSafetensors } from "../../src/safetensors.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";

Deno.test("choosePrecision() takes the first pattern that fits, the recipe's before the family's", () => {
  const recipe: Precision = { q4: { "layers.first.*": "fp16" } };
  const family: Precision = {
    any: { "layers.{i}.router.weight": "fp32" },
    q4: { "embed.weight": "q8", "layers.last.*.weight": "q8", "layers.first.q.weight": "w8a8" },
  };
  const form = choosePrecision("q4", { tables: [recipe, family], layers: 12 });
  const expected = {
    "embed.weight": "q8",
    "head.weight": "q4",
    "layers.0.q.weight": "fp16",
    "layers.1.q.weight": "q4",
    "layers.11.down.weight": "q8",
    "layers.10.down.weight": "q4",
    "layers.5.router.weight": "fp32",
    "layers.5.router_weight": "q4", // a dot is a dot
  };
  for (const [name, wanted] of Object.entries(expected)) assertEquals(form(name), wanted, name);
  const eight = choosePrecision("q8", { tables: [recipe, family], layers: 12 });
  assertEquals(eight("embed.weight"), "q8");
  assertEquals(eight("layers.0.q.weight"), "q8", "the q4 tables are of q4 alone");
  assertEquals(eight("layers.5.router.weight"), "fp32");
});

Deno.test("a recipe decides the form of single matrices, and a pattern that fits none is refused", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    const convert = (precision: Precision, target: string) =>
      convertCheckpoint({
        source: `${folder}/source`,
        target: `${folder}/${target}`,
        dtype: "q4",
        recipe: { name: "mixed", precision },
      });
    const made = await convert({
      q4: {
        "embed.weight": "fp16",
        "layers.last.*": "fp32",
        "layers.{i}.v.weight": "w8a8",
        "layers.first.q.weight": "q4",
      },
    }, "mixed");
    assertEquals(made.dtype, "q4");
    const file = await Deno.readFile(`${folder}/mixed/weights.safetensors`);
    const { tensors } = parseSafetensors(file, "weights.safetensors");
    const form = (name: string) => formOf(name, tensors.get(`${name}.weight`)!).form;
    assertEquals(form("embed"), "fp16");
    assertEquals(form("layers.0.q"), "q4");
    assertEquals(form("layers.0.k"), "q8", "the family's first layer");
    assertEquals(form("layers.0.v"), "w8a8");
    assertEquals(form("layers.1.v"), "fp32", "the first pattern counts");

    for (const pattern of ["layers.2.*", "layers.first.attention_norm", "embed", "head.weight"]) {
      const error = await assertRejects(
        () => convert({ q4: { [pattern]: "q8" } }, "refused"),
        EngineError,
        `precision.q4: ${pattern} fits no matrix`,
      );
      assertEquals(error.code, "invalid_request");
    }
    const wrong = { q4: { "embed.weight": "q3" } } as unknown as Precision; // what a file may hold
    await assertRejects(() => convert(wrong, "refused"), EngineError, "recipe: precision.q4");
    assert(![...Deno.readDirSync(folder)].some((entry) => entry.name.startsWith("refused")));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("every exception of a family is about a matrix of that family", async () => {
  for (const family of await loadFamilies()) {
    const names = Object.keys(family.tensors).filter((name) => name.endsWith(".weight"))
      .flatMap((name) => [name.replace("{i}", "0"), name.replace("{i}", "1")]);
    checkPatterns(family.precision, { names, layers: 2 });
  }
});
