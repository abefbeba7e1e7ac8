import { assert, assertEquals, assertRejects } from "@std/assert";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { type EvalOptions, type EvalProgress, evaluate } from "../../src/eval/evaluate.ts";
import { EngineError } from "../../src/mod.ts";
import { TINY, unpackCheckpoint } from "../support/tiny.ts";
import { inTempFolder } from "../support/temp_folder.ts";

const ROOT = new URL("../../", import.meta.url);
const fixture = (name: string) => new URL(`fixtures/${name}`, import.meta.url).pathname;

function command(args: readonly string[]): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["task", "eval", ...args],
    cwd: ROOT,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  });
}

async function run(...args: string[]) {
  const { code, stdout, stderr } = await command(args).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

const OPTIONS: EvalOptions = {
  models: [TINY.pathname],
  suite: "infill",
  file: fixture("infill.jsonl"),
  blocks: [8, 16],
  thresholds: [0.7, 0.95],
  seed: 1,
  maxTokens: 24,
  draws: 2,
  backend: "wasm",
  threads: 1,
};

Deno.test("the eval command as models/README.md has it, at a tiny limit", () =>
  inTempFolder(async (folder) => {
    const readme = await Deno.readTextFile(new URL("models/README.md", ROOT));
    const line = readme.split("\n").find((line) => line.includes("--suite functions"));
    if (line === undefined) throw new Error("models/README.md must show the functions suite");
    const [task, args] = [line.slice(0, 15), line.slice(15).replace(/#.*/, "").trim().split(/\s+/)];
    assertEquals(task, "deno task eval ");
    const out = args.indexOf("--out");
    assert(out >= 0, line);
    args[out + 1] = folder;
    const { code, stdout, stderr } = await run(
      ...[...args, "--limit", "2", "--blocks", "16", "--thresholds", ".9"],
      ...["--max-tokens", "24", "--backend", "wasm"],
    );
    assertEquals(code, 0, stderr);
    assert(/100 % {2}2 of 2 tasks/.test(stderr) && !stderr.includes("\r"), stderr);
    assert(/^\| cinnabar-tiny q8 \| 16 +\| 0\.9 +\| /m.test(stdout), stdout);
    const files = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
    assertEquals(files, ["plot.svg", "results.json", "results.jsonl", "table.md"]);
    assert(stdout.endsWith(await Deno.readTextFile(`${folder}/table.md`)));
    const json = JSON.parse(await Deno.readTextFile(`${folder}/results.json`));
    assertEquals([json.suite, json.format, json.rows.length], ["functions", "functions", 1]);
    const { tasks, outcomes, tokensPerForward } = json.rows[0];
    assertEquals([tasks, Object.values<number>(outcomes).reduce((a, b) => a + b)], [2, 2]);
    assert(tokensPerForward > 0.3 && tokensPerForward < 16, `${tokensPerForward}`);
  }));

Deno.test("a run that was killed goes on where it was, to the same table", () =>
  inTempFolder(async (folder) => {
    const whole = await evaluate({ ...OPTIONS, out: `${folder}/whole` });
    const args = [
      ...["--model", TINY.pathname, "--suite", "infill", OPTIONS.file, "--blocks", "8,16"],
      ...["--thresholds", ".7,.95", "--max-tokens", "24", "--backend", "wasm", "--threads", "1"],
      ...["--out", `${folder}/killed`],
    ];
    const path = `${folder}/killed/results.jsonl`;
    const lines = async () => {
      const text = await Deno.readTextFile(path).catch(() => "");
      return text.split("\n").length - 1;
    };
    // The command itself, not the task runner: a signal must reach the process that writes.
    const cli = new URL("src/eval/cli.ts", ROOT).pathname;
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", cli, ...args],
      stdout: "null",
      stderr: "null",
    }).spawn();
    let ended = false;
    const status = child.status.then((status) => {
      ended = true;
      return status;
    });
    while (!ended && await lines() < 3) await new Promise((resolve) => setTimeout(resolve, 20));
    child.kill("SIGKILL");
    assertEquals((await status).signal, "SIGKILL");
    const kept = await lines();
    assert(kept >= 3 && kept < 16, `${kept} of 16 lines before the end`);
    await Deno.writeTextFile(path, '{"run":"cut off in the mid', { append: true });

    const told: EvalProgress[] = [];
    const onProgress = (progress: EvalProgress) => told.push(progress);
    const again = await evaluate({ ...OPTIONS, out: `${folder}/killed`, onProgress });
    assertEquals([told[0].known, told[0].total, told.at(-1)?.done], [kept, 16, 16]);
    assertEquals(again.table, whole.table);
    assertEquals(await lines(), 16);
    for (const name of ["table.md", "plot.svg", "results.json"]) {
      const [a, b] = ["whole", "killed"].map((run) =>
        Deno.readTextFileSync(`${folder}/${run}/${name}`)
      );
      assertEquals(a, b);
    }
  }));

Deno.test("several models go into one table, and a change of settings is a new run", () =>
  inTempFolder(async (folder) => {
    await unpackCheckpoint(`${folder}/checkpoint`);
    const convert = {
      source: `${folder}/checkpoint`,
      dtype: "fp32",
      name: "cinnabar-tiny",
    } as const;
    await convertCheckpoint({ ...convert, target: `${folder}/fp32` });
    const options: EvalOptions = {
      ...OPTIONS,
      models: [TINY.pathname, `${folder}/fp32`],
      suite: "bpb",
      file: fixture("text.jsonl"),
      blocks: [4, 32],
      limit: 2,
      out: `${folder}/out`,
    };
    const { rows, table } = await evaluate(options);
    assertEquals(rows.map(({ model, blockLength }) => `${model} ${blockLength}`), [
      "cinnabar-tiny q8 4",
      "cinnabar-tiny q8 32",
      "cinnabar-tiny fp32 4",
      "cinnabar-tiny fp32 32",
    ]);
    const bits = rows.map((row) => "bitsPerByte" in row ? row.bitsPerByte : NaN);
    for (const value of bits) assert(value > 0.2 && value < 3, table);
    // the masks are the same, so what differs is what 8 bits cost
    assert(Math.abs(bits[0] - bits[2]) < 0.05 && bits[0] !== bits[2], `${bits}`);

    const known: number[] = [];
    const onProgress = (progress: EvalProgress) => known.push(progress.known);
    const one = { ...options, models: [TINY.pathname], onProgress };
    await evaluate({ ...one, limit: 3 });
    assertEquals(known.shift(), 4); // two texts at two block lengths
    known.length = 0;
    await evaluate({ ...one, seed: 2 });
    assertEquals(known[0], 0);
  }));

Deno.test("evaluate() refuses what the model cannot do", async () => {
  const cases: [Partial<EvalOptions>, string][] = [
    [{ blocks: [16, 64] }, "--blocks: 64 is not among the block lengths of cinnabar-tiny q8"],
    [{ suite: "humaneval" }, "--suite humaneval takes JSON lines of human-eval-infilling"],
    [{ models: ["/no/such/model"] }, "/no/such/model"],
  ];
  for (const [change, fact] of cases) {
    await assertRejects(() => evaluate({ ...OPTIONS, ...change }), EngineError, fact);
  }
});

Deno.test("the eval command tells what is wrong without a stack", async () => {
  const model = ["--model", TINY.pathname];
  const cases: [string[], number, string][] = [
    [[], 2, "--suite  is not one of bpb, infill, functions, humaneval"],
    [["--suite", "functions"], 2, "--model is needed"],
    [[...model, "--suite", "bpb"], 2, "--suite bpb needs a FILE"],
    [[...model, "--suite", "functions", "--limit", "0"], 2, "--limit 0: must be a whole number"],
    [[...model, "--suite", "functions", "--thresholds", ".5,2"], 2, "--thresholds 2: must be"],
    [[...model, "--suite", "functions", "--backend", "gpu"], 2, "--backend gpu is not one of"],
    [[...model, "--suite", "functions", "--block", "4"], 2, "--block"],
    [[...model, "--suite", "infill", "/no/such.jsonl"], 1, "/no/such.jsonl"],
  ];
  const results = await Promise.all(cases.map(([args]) => run(...args)));
  results.forEach(({ code, stderr }, i) => {
    assertEquals(code, cases[i][1], stderr);
    assert(stderr.includes(cases[i][2]) && !stderr.includes("    at "), stderr);
  });
});
