import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { plotOf } from "../../src/eval/evaluate.ts";
import { type BitsRow, markdownTable, summarise, type WritingRow } from "../../src/eval/report.ts";
import {
  keyOf,
  openStore,
  type Scored,
  type Settings,
  type Written,
} from "../../src/eval/store.ts";
import { EngineError } from "../../src/mod.ts";
import { inTempFolder } from "../support/temp_folder.ts";

const written = (task: string, outcome: Written["outcome"], tokens: number): Written => ({
  run: "r",
  task,
  model: "m q8",
  blockLength: 16,
  threshold: 0.9,
  outcome,
  tokens,
  passes: 10,
  output: `text of ${task}`,
});

const scored = (task: string, nats: number[], bytes: number): Scored => ({
  run: "r",
  task,
  model: "m q8",
  blockLength: 4,
  nats,
  bytes,
});

Deno.test("summarise() weighs tokens per forward by pass, and tells how tasks ended", () => {
  const results = [
    written("a", "passed", 20),
    written("b", "failed", 10),
    written("c", "syntax", 0),
    { ...written("d", "context", 0), passes: 0 },
  ];
  const row = summarise(results, { parses: true }) as WritingRow;
  assertEquals(row.quality, 0.25);
  assertAlmostEquals(row.error, Math.sqrt(0.25 * 0.75 / 4));
  assertEquals(row.tokensPerForward, 1);
  assertEquals(row.parses, 0.5);
  assertEquals(row.outcomes, { passed: 1, failed: 1, syntax: 1, context: 1 });
  const table = markdownTable([row, { ...row, model: "a longer name", quality: 1 }], "pass@1");
  assertEquals(
    table,
    "| model         | block | threshold | pass@1, % | ±    | tokens per forward | tasks | parses, % |\n" +
      "| ------------- | ----- | --------- | --------- | ---- | ------------------ | ----- | --------- |\n" +
      "| m q8          | 16    | 0.9       | 25.0      | 21.7 | 1.00               | 4     | 50.0      |\n" +
      "| a longer name | 16    | 0.9       | 100.0     | 21.7 | 1.00               | 4     | 50.0      |\n",
  );
});

Deno.test("summarise() adds bits over bytes, with the errors of texts and of masks apart", () => {
  const ln2 = Math.LN2;
  const same = summarise([scored("0", [8 * ln2, 8 * ln2], 8), scored("1", [4 * ln2, 4 * ln2], 4)], {
    parses: false,
  }) as BitsRow;
  assertAlmostEquals(same.bitsPerByte, 1);
  assertAlmostEquals(same.error, 0); // every text has the same rate
  assertEquals(same.maskError, 0); // and every draw the same cost
  const varied = summarise([
    scored("0", [8 * ln2, 16 * ln2], 8),
    scored("1", [6 * ln2, 6 * ln2], 8),
  ], {
    parses: false,
  }) as BitsRow;
  assertAlmostEquals(varied.bitsPerByte, 18 / 16);
  assertAlmostEquals(varied.error, Math.sqrt((9 + 9) * 2) / 16);
  assertAlmostEquals(varied.maskError, Math.sqrt(32 / 2) / 16);
  const one = summarise([scored("0", [1], 1)], { parses: false });
  assert(markdownTable([one], "").includes("| –       | –       |"), markdownTable([one], ""));
});

Deno.test("plotOf() draws one line for each model and block length, and only numbers", () => {
  const row = (model: string, blockLength: number, threshold: number, quality: number) =>
    ({
      ...summarise([written("a", "passed", 15)], { parses: false }),
      model,
      blockLength,
      threshold,
      quality,
      tokensPerForward: 1 + quality,
    }) as WritingRow;
  const rows = [row("a <b>", 4, 0.7, 0.1), row("a <b>", 4, 0.9, 0.3), row("a <b>", 8, 0.9, 0.2)];
  const svg = plotOf(rows, "functions");
  assertEquals([...svg.matchAll(/stroke-linejoin/g)].length, 2);
  assertEquals([...svg.matchAll(/<circle /g)].length, 3);
  assert(svg.includes(">a &lt;b&gt;, block 4</text>") && svg.includes("prefers-color-scheme:dark"));
  const bits = (model: string, blockLength: number, nats: number) => ({
    ...summarise([scored("0", [nats, nats + 1], 9), scored("1", [nats, nats], 7)], {
      parses: false,
    }),
    model,
    blockLength,
  });
  const curve = plotOf([bits("a", 4, 3), bits("a", 32, 4), bits("b", 32, 4)], "bpb");
  assertEquals([...curve.matchAll(/stroke-linejoin/g)].length, 2);
  for (const drawing of [svg, curve, plotOf([row("one", 4, 0.9, 0)], "infill")]) {
    assert(!/NaN|Infinity|undefined/.test(drawing), drawing);
    const opened = [...drawing.matchAll(/<(\w+)(?:>|\s[^>]*[^/]>)/g)].map(([, tag]) => tag).sort();
    const closed = [...drawing.matchAll(/<\/(\w+)>/g)].map(([, tag]) => tag).sort();
    assertEquals(opened, closed); // well-formed: nothing nests but the text in the drawing
  }
});

Deno.test("keyOf() depends on every setting and on no order", () => {
  const settings: Settings = {
    weights: "w",
    file: "f",
    suite: "functions",
    backend: "wasm",
    blockLength: 4,
    seed: 1,
    threshold: 0.9,
    maxTokens: 8,
  };
  const reversed = Object.fromEntries(Object.entries(settings).reverse()) as unknown as Settings;
  assertEquals(keyOf(reversed), keyOf(settings));
  const changed = Object.keys(settings).map((key) => keyOf({ ...settings, [key]: "other" }));
  assertEquals(new Set([keyOf(settings), ...changed]).size, 9);
});

Deno.test("openStore() recovers from a last line that was cut anywhere", () =>
  inTempFolder(async (folder) => {
    const store = await openStore(folder);
    await Promise.all(["a", "b", "ü"].map((task) => store.add(written(task, "passed", 1))));
    await store.close();
    const whole = await Deno.readFile(`${folder}/results.jsonl`);
    const ends = [...whole.entries()].filter(([, byte]) => byte === 10).map(([i]) => i + 1);
    for (let size = ends[1]; size < whole.length; size++) {
      await Deno.writeFile(`${folder}/results.jsonl`, whole.subarray(0, size));
      const again = await openStore(folder);
      assertEquals(["a", "b", "ü"].map((task) => again.get("r", task)?.task), [
        "a",
        "b",
        undefined,
      ]);
      await again.add(written("ü", "passed", 1));
      await again.close();
      assertEquals(await Deno.readFile(`${folder}/results.jsonl`), whole);
    }
  }));

Deno.test("openStore() names a damaged line instead of dropping it", () =>
  inTempFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/results.jsonl`, '{"run":"r","task":"a"}\n{"ru\n{}\n');
    await assertRejects(() => openStore(folder), EngineError, "line 2 is damaged");
  }));
