import { assert, assertEquals, assertRejects } from "@std/assert";
import { EngineError } from "../../src/mod.ts";
import { readSuite, spread, type Suite } from "../../src/eval/tasks.ts";

const fixture = (name: string) => new URL(`fixtures/${name}`, import.meta.url).pathname;

/** Writes `content` to a file of a temporary folder. */
async function inFile<T>(
  name: string,
  content: string | Uint8Array,
  body: (file: string) => Promise<T>,
): Promise<T> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeFile(
      `${folder}/${name}`,
      typeof content === "string" ? new TextEncoder().encode(content) : content,
    );
    return await body(`${folder}/${name}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("readSuite() tells the formats apart by their fields", async () => {
  const cases: [string, Suite, string, string, number][] = [
    ["human_eval.jsonl", "humaneval", "HumanEval", "python", 2],
    ["human_eval_infilling.jsonl", "humaneval", "human-eval-infilling", "python", 1],
    ["multipl_e_ts.jsonl", "humaneval", "MultiPL-E", "script", 1],
    ["multipl_e_js.jsonl", "humaneval", "MultiPL-E", "script", 1],
    ["infill.jsonl", "infill", "infill", "infill", 4],
    ["text.jsonl", "bpb", "text", "text", 3],
    ["../../../models/eval/functions.jsonl", "functions", "functions", "function", 84],
  ];
  for (const [name, suite, format, kind, count] of cases) {
    const file = await readSuite(fixture(name), suite);
    assertEquals([file.format, file.tasks[0].kind, file.tasks.length], [format, kind, count]);
  }
});

Deno.test("readSuite() keeps the suffix of an infilling task and calls check() with the entry point", async () => {
  const { tasks: [task] } = await readSuite(fixture("human_eval_infilling.jsonl"), "humaneval");
  if (task.kind !== "python") throw new Error(task.kind);
  assertEquals(task.suffix, "    return n\n");
  assert(task.tests.endsWith("check(clip)\n"));
});

Deno.test("readSuite() reads a gzipped file, as some are published", async () => {
  const plain = await Deno.readFile(fixture("human_eval.jsonl"));
  const packed = new Blob([plain]).stream().pipeThrough(new CompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
  const file = await inFile("h.jsonl.gz", bytes, (file) => readSuite(file, "humaneval"));
  assertEquals(file.tasks, (await readSuite(fixture("human_eval.jsonl"), "humaneval")).tasks);
});

Deno.test("readSuite() cuts a plain text at line ends and loses nothing", async () => {
  const text = Array.from({ length: 90 }, (_, i) => `line ${i} of a text\n`).join("") + "end";
  const { tasks, format } = await inFile("a.txt", text, (file) => readSuite(file, "bpb"));
  const pieces = tasks.flatMap((task) => task.kind === "text" ? [task.text] : []);
  assertEquals([format, pieces.join("")], ["plain text", text]);
  assertEquals(pieces.length, 2);
});

Deno.test("readSuite() takes the documents of a JSON file", async () => {
  const heldout = new URL("../../models/tiny/heldout.json", import.meta.url).pathname;
  const { tasks } = await readSuite(heldout, "bpb");
  assertEquals(tasks.length, 59);
});

Deno.test("readSuite() hides one line of code of each text for infilling", async () => {
  const heldout = new URL("../../models/tiny/heldout.json", import.meta.url).pathname;
  const { tasks, format } = await readSuite(heldout, "infill");
  const { documents } = JSON.parse(await Deno.readTextFile(heldout));
  assertEquals(format, "text, a line of each hidden");
  assert(tasks.length > 40, `${tasks.length} of 59 have such a line`);
  for (const task of tasks) {
    if (task.kind !== "infill") throw new Error(task.kind);
    assertEquals(task.prompt + task.expected + task.suffix, documents[Number(task.id)].text);
    assert(/\w/.test(task.expected) && !/^[*/]/.test(task.expected), task.expected);
  }
});

Deno.test("readSuite() says what is wrong and what it takes", async () => {
  const infill = '{"prefix":"a","suffix":"b","expected":"c"}';
  const function_ = '{"name":"f","prompt":"p","tests":["t"]}';
  const cases: [string, Suite, string[]][] = [
    ['{"question":"a","answer":"b"}', "humaneval", [
      "line 1 has the fields question, answer",
      "HumanEval { task_id, prompt, test, entry_point }",
      "human-eval-infilling { task_id, prompt, suffix, test, entry_point }",
      "MultiPL-E { name, prompt, tests, language }",
    ]],
    [infill, "functions", ["the format infill, for --suite infill", "{ name, prompt, tests }"]],
    [`${infill}\n{"prefix":"a","suffix":1,"expected":"c"}`, "infill", ["line 2: suffix: must be"]],
    [`${function_}\n\n${function_}`, "functions", ["line 3: a second task is named f"]],
    ['{"name":"f","prompt":"p","tests":"t","language":"rb"}', "humaneval", ["one of ts, js"]],
    ["[1, 2", "infill", ["line 1 is not JSON"]],
    ["\n", "infill", ["holds no tasks"]],
    ["7", "infill", ["the fields (none)"]],
  ];
  for (const [content, suite, facts] of cases) {
    const error = await assertRejects(
      () => inFile("s.jsonl", content, (file) => readSuite(file, suite)),
      EngineError,
    );
    assertEquals([error.code, error.param], ["invalid_request", "file"]);
    for (const fact of facts) assert(error.message.includes(fact), error.message);
  }
  await assertRejects(() => readSuite("/no/such.jsonl", "infill"), EngineError, "/no/such.jsonl");
  await assertRejects(
    () => inFile("s.jsonl", Uint8Array.of(0xff, 0xfe), (file) => readSuite(file, "infill")),
    EngineError,
    "is not UTF-8",
  );
});

Deno.test("spread() takes tasks from the whole file, each once", () => {
  const all = Array.from({ length: 10 }, (_, i) => i);
  assertEquals(spread(all, 4), [0, 2, 5, 7]);
  assertEquals(spread(all, 10), all);
  assertEquals(spread(all, undefined), all);
});
