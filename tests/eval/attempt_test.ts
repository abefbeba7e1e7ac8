import { assert, assertEquals } from "@std/assert";
import nodeAssert from "node:assert";
import { judge, openCodeRunner } from "../../src/eval/attempt.ts";
import { cutAt, isExpected } from "../../src/eval/cut.ts";
import { readSuite, type WritingTask } from "../../src/eval/tasks.ts";
import { openParser } from "../../src/eval/typescript.ts";
import { available } from "../support/require.ts";
import { REFERENCES } from "./functions_reference.ts";

const fixture = (name: string) => new URL(`fixtures/${name}`, import.meta.url).pathname;
const FUNCTIONS = fixture("../../../models/eval/functions.jsonl");

/** The tasks of a file that ask for writing. */
async function writing(file: string, suite: "functions" | "humaneval"): Promise<WritingTask[]> {
  return (await readSuite(file, suite)).tasks.flatMap((task) => task.kind === "text" ? [] : [task]);
}

Deno.test("isExpected() trims, and looks at the first line only where one line is expected", () => {
  assert(isExpected("  return a;  ", "return a;"));
  assert(isExpected("\n  return a;\n}\n\nfunction", "  return a;\n"));
  assert(!isExpected("return a; // b", "return a;"));
  assert(isExpected("if (a)\n  b();\n", "if (a)\n  b();"));
  assert(!isExpected("if (a)\n  b();\nc();", "if (a)\n  b();"));
  assert(!isExpected("", "a"));
});

Deno.test("cutAt() ends before the first stop of any number", () => {
  assertEquals(cutAt("a#b\nclass\ndef", ["\ndef", "\nclass", "x", "y", "z"]), "a#b");
  assertEquals(cutAt("abc", ["d"]), "abc");
  assertEquals(cutAt("abc", []), "abc");
});

const ADD: WritingTask = {
  kind: "function",
  id: "add",
  name: "add",
  prompt: "/** Adds. */\nexport function add(a: number, b: number): number {\n",
  tests: ["assert.strictEqual(add(1, 2), 3);", "assert.strictEqual(add(0, 0), 0);"],
};

Deno.test("judge() cuts after the first complete function, then parses, then tests", async () => {
  await using code = openCodeRunner();
  const cases: [string, string, RegExp][] = [
    ["  return a + b;\n}", "passed", /^$/],
    ["  return a + b;\n}\n\nexport function half(", "passed", /^$/],
    ["  const open = `}${'{'}`; // }\n  return a + b;\n}\nlet", "passed", /^$/],
    ["  return a - b;\n}", "failed", /^AssertionError/],
    ["  return a + b;\n", "syntax", /'}' expected/],
    ["  return a + ;\n}", "syntax", /[Ee]xpression expected/],
    ["  return c;\n}", "failed", /^ReferenceError: c/],
    ["  assert(a < b);\n  return a + b;\n}", "failed", /^ReferenceError: assert/],
    ["  process.exit(0);\n}", "failed", /ended before its tests/],
  ];
  for (const [output, outcome, detail] of cases) {
    const verdict = await judge(ADD, output, code);
    assertEquals(verdict.outcome, outcome, output);
    assert(detail.test(verdict.detail ?? ""), verdict.detail);
  }
});

Deno.test("judge() does not let tests complete what a model left open", async () => {
  await using code = openCodeRunner();
  const task = { ...ADD, tests: ["}", "assert.strictEqual(add(1, 2), 3);"] };
  assertEquals((await judge(task, "  return a + b;\n", code)).outcome, "syntax");
});

Deno.test("models/eval/functions.jsonl: every reference passes in the sandbox, and has tests enough", async () => {
  await using code = openCodeRunner();
  const tasks = await writing(FUNCTIONS, "functions");
  assertEquals(tasks.map((task) => task.id).sort(), Object.keys(REFERENCES).sort());
  const verdicts = await Promise.all(
    tasks.map((task) => judge(task, REFERENCES[task.id], code)),
  );
  tasks.forEach((task, i) => assertEquals(verdicts[i], { outcome: "passed" }, task.id));
  for (const task of tasks) {
    assert(task.kind === "function" && task.tests.length >= 3 && task.tests.length <= 6, task.id);
    assert(/^\/\*\*\n \* .*\n \*\/\nexport function \w+.*\{\n$/.test(task.prompt), task.prompt);
  }
});

Deno.test("models/eval/functions.jsonl: no function passes with a body that ignores its task", async () => {
  const parser = openParser();
  const bodies: ((...given: never[]) => unknown)[] = [
    () => undefined,
    (first) => first,
    (_, second) => second,
    () => true,
    () => false,
    () => 0,
    () => 1,
    () => "",
    () => [],
    () => ({}),
    () => () => undefined,
    (first: unknown[]) => first.length,
    () => {
      throw new Error("no");
    },
  ];
  for (const task of await writing(FUNCTIONS, "functions")) {
    if (task.kind !== "function") throw new Error(task.id);
    const { name, prompt } = task;
    const source = `${prompt}return body(...arguments);\n}`;
    const script = await parser.parse({ source, name, tests: task.tests.join("\n") });
    if ("error" in script) throw new Error(`${name}: ${script.error}`);
    // In this process, because these bodies are ours and there are a thousand.
    const run = new Function("assert", "exports", "body", script.code);
    for (const body of bodies) {
      let passed = true;
      try {
        run(nodeAssert, {}, body);
      } catch {
        passed = false;
      }
      assert(!passed, `${name} passes with: ${body}`);
    }
  }
  await parser.close();
});

Deno.test("judge() runs MultiPL-E tasks as published, TypeScript and JavaScript", async () => {
  await using code = openCodeRunner();
  const [double] = await writing(fixture("multipl_e_ts.jsonl"), "humaneval");
  const [joined] = await writing(fixture("multipl_e_js.jsonl"), "humaneval");
  const outcomes = await Promise.all([
    judge(double, "  return 2 * n;\n}\n\nfunction broken( {", code),
    judge(double, "  return n + 2;\n}", code),
    judge(double, "  return 2 * n;\n}\n\nconst broken = ;", code),
    judge(joined, '  return words.join(" ");\n}\n\nconsole.log(joined([', code),
    judge(joined, "  return words;\n}", code),
  ]);
  assertEquals(
    outcomes.map((verdict) => verdict.outcome),
    ["passed", "failed", "syntax", "passed", "failed"],
  );
});

const python = await new Deno.Command("python3", { args: ["-c", ""] }).output()
  .then(({ success }) => success, () => false);

Deno.test({
  name: "judge() runs HumanEval and its infilling: canonical solutions pass, others do not",
  ...available("python3", python, "no python3 in the PATH"),
  fn: async () => {
    await using code = openCodeRunner();
    for (const name of ["human_eval.jsonl", "human_eval_infilling.jsonl"]) {
      const lines = (await Deno.readTextFile(fixture(name))).trim().split("\n");
      const tasks = await writing(fixture(name), "humaneval");
      for (const [i, task] of tasks.entries()) {
        const solution: string = JSON.parse(lines[i]).canonical_solution;
        assertEquals(await judge(task, solution, code), { outcome: "passed" }, task.id);
        const more = `${solution}\n\ndef unfinished(`;
        const expected = task.suffix === undefined ? "passed" : "failed"; // infilling is not cut
        assertEquals((await judge(task, more, code)).outcome, expected);
        const wrong = await judge(task, solution.replace("return", "return None and"), code);
        assertEquals(wrong.outcome, "failed");
        assert(wrong.detail?.startsWith("AssertionError"), wrong.detail);
      }
    }
  },
});
