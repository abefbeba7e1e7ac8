/** `deno task eval --model FOLDER --suite SUITE [FILE]`: flags, progress and the table; the work is in evaluate.ts. */
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { BACKENDS, EngineError } from "../mod.ts";
import { type EvalOptions, type EvalProgress, evaluate } from "./evaluate.ts";
import { SUITES } from "./tasks.ts";

const USAGE = `Usage: deno task eval --model FOLDER --suite SUITE [FILE] [options]

  --suite bpb FILE        bits per byte of held-out text: JSON lines with "text", or plain text
  --suite infill FILE     exact match: JSON lines with "prefix", "suffix", "expected"; or texts, a line of each hidden
  --suite functions       doc comment to function, run against tests (FILE: models/eval/functions.jsonl)
  --suite humaneval FILE  HumanEval, human-eval-infilling, MultiPL-E (ts, js), as published; Python needs python3

  --model FOLDER          a bundle; repeat it to compare several
  --blocks 4,8            block lengths (default: all that each model was trained with)
  --thresholds .7,.9      confidence thresholds (default .7,.8,.9,.95); not for bpb
  --limit N               N tasks, evenly spread over the file
  --max-tokens N          most tokens of one output (default 256); not for bpb
  --draws N               draws of masks for each text (default 4); only for bpb
  --seed N                of masks and sampling (default 1)
  --backend NAME          auto, ${BACKENDS.join(", ")} (default auto)
  --threads N             threads of a CPU backend (default up to 4)
  --out FOLDER            results.jsonl, to go on after an interruption; results.json, table.md, plot.svg
`;

const FUNCTIONS = new URL("../../models/eval/functions.jsonl", import.meta.url);

/** A command line that cannot be understood; its message is for the person who wrote it. */
class UsageError extends Error {}

/** Runs the command and resolves to its exit code. */
async function main(args: string[]): Promise<number> {
  const abort = new AbortController();
  try {
    const options = readFlags(args);
    if (options === "help") {
      console.log(USAGE);
      return 0;
    }
    process.once("SIGINT", () => {
      const hint = options.out === undefined ? "" : "; the same command goes on from here";
      abort.abort(new EngineError("cancelled", `interrupted${hint}`));
    });
    const { table } = await evaluate({
      ...options,
      signal: abort.signal,
      onProgress: progressLine(),
    });
    console.log(table.trimEnd());
    return 0;
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(`${error.message}\n\n${USAGE}`);
      return 2;
    }
    if (!(error instanceof EngineError)) throw error;
    console.error(`\n${error.message}`);
    return 1;
  }
}

function readFlags(args: string[]): EvalOptions | "help" {
  const { values, positionals } = parse(args);
  if (values.help) return "help";
  const suite = SUITES.find((name) => name === values.suite);
  if (suite === undefined) {
    throw new UsageError(`--suite ${values.suite ?? ""} is not one of ${SUITES.join(", ")}`);
  }
  if (values.model === undefined) throw new UsageError("--model is needed");
  if (positionals.length > 1) throw new UsageError(`one FILE, not ${positionals.join(" ")}`);
  const file = positionals[0] ?? (suite === "functions" ? fileURLToPath(FUNCTIONS) : undefined);
  if (file === undefined) throw new UsageError(`--suite ${suite} needs a FILE`);
  const backend = (["auto", ...BACKENDS] as const).find((name) => name === values.backend);
  if (backend === undefined) {
    throw new UsageError(`--backend ${values.backend} is not one of auto, ${BACKENDS.join(", ")}`);
  }
  const cores = navigator.hardwareConcurrency;
  return {
    models: values.model,
    suite,
    file,
    backend,
    blocks: values.blocks === undefined ? undefined : numbers("blocks", values.blocks, whole),
    thresholds: numbers("thresholds", values.thresholds, share),
    limit: values.limit === undefined ? undefined : whole("limit", values.limit),
    maxTokens: whole("max-tokens", values["max-tokens"]),
    draws: whole("draws", values.draws),
    seed: whole("seed", values.seed),
    threads: values.threads === undefined ? Math.min(4, cores) : whole("threads", values.threads),
    out: values.out,
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        model: { type: "string", multiple: true },
        suite: { type: "string" },
        blocks: { type: "string" },
        thresholds: { type: "string", default: ".7,.8,.9,.95" },
        limit: { type: "string" },
        "max-tokens": { type: "string", default: "256" },
        draws: { type: "string", default: "4" },
        seed: { type: "string", default: "1" },
        backend: { type: "string", default: "auto" },
        threads: { type: "string" },
        out: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

type ReadNumber = (flag: string, text: string) => number;

const whole: ReadNumber = (flag, text) => {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new UsageError(`--${flag} ${text}: must be a whole number from 1`);
};

const share: ReadNumber = (flag, text) => {
  const value = Number(text);
  if (text !== "" && value >= 0 && value <= 1) return value;
  throw new UsageError(`--${flag} ${text}: must be a number from 0 to 1`);
};

function numbers(flag: string, list: string, read: ReadNumber): number[] {
  return [...new Set(list.split(",").map((text) => read(flag, text.trim())))];
}

/** A progress bar on a terminal, a line every 10 % elsewhere; on standard error, the table has the other. */
function progressLine(): (progress: EvalProgress) => void {
  let model: string | undefined;
  let started = 0, told = -1;
  return (progress) => {
    const { done, total, known } = progress;
    if (progress.model !== model) {
      model = progress.model;
      started = performance.now();
      told = -1;
    }
    const seconds = Math.max(1e-3, (performance.now() - started) / 1000);
    const rate = (done - known) / seconds;
    const speed = rate > 0 ? `  ${rate.toFixed(1)}/s  ${duration((total - done) / rate)} left` : "";
    const share = done / total;
    const text = `${(share * 100).toFixed(0).padStart(3)} %  ${done} of ${total} tasks${speed}`;
    if (process.stderr.isTTY) {
      const bar = "█".repeat(Math.round(share * 24)).padEnd(24, "░");
      const end = done === total ? "\n" : "";
      process.stderr.write(`\r${bar} ${text}  ${model}`.padEnd(100) + end);
    } else if (Math.floor(share * 10) > told) {
      told = Math.floor(share * 10);
      console.error(`${text}  ${model}`);
    }
  };
}

function duration(seconds: number): string {
  return seconds < 100 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(0)} min`;
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
