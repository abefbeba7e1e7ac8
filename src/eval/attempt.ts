/** One task that asks the model to write: how it is asked, where the output is cut, how it is judged. */
import { type Engine, EngineError } from "../mod.ts";
import { cutAt, isExpected } from "./cut.ts";
import { LIMITS, type Limits, runPython, runScript, type Verdict } from "./sandbox.ts";
import type { Written } from "./store.ts";
import type { WritingTask } from "./tasks.ts";
import { openParser, type Parser, type Source } from "./typescript.ts";

/** How the model decodes; always greedily, so that a figure can be had again. */
export interface Decoding {
  readonly blockLength: number;
  readonly threshold: number;
  readonly maxTokens: number;
  readonly seed: number;
}

type Judged = Pick<Written, "outcome" | "detail">;

/** Runs code; the same code is run once, because most settings write the same. */
export interface CodeRunner extends AsyncDisposable {
  typescript(source: Source): Promise<Judged>;
  python(code: string): Promise<Judged>;
}

/** Stop strings that an engine takes for one generation. */
const ENGINE_STOPS = 4;

/** Where a TypeScript function has surely ended: the next thing begins at the left margin. */
const FUNCTION_STOPS = ["\n/**", "\nfunction ", "\nexport ", "\nconst "];

/** The end of a text before which an engine may end early; judge cuts again, at all of them. */
function stopsOf(task: WritingTask): readonly string[] {
  if (task.kind === "function") return FUNCTION_STOPS;
  return task.kind === "infill" ? [] : task.stops;
}

/** Asks the model and judges what it writes. */
export async function attempt(
  engine: Engine,
  task: WritingTask,
  decoding: Decoding,
  code: CodeRunner,
): Promise<Judged & Pick<Written, "tokens" | "passes" | "output">> {
  const { prompt, suffix } = task;
  const { blockLength, threshold, seed } = decoding;
  const { contextLength } = engine.manifest.architecture;
  const nothing = { tokens: 0, passes: 0, output: "" };
  let room: number;
  try {
    room = contextLength - engine.encodePrompt(prompt, suffix).length;
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== "context_exceeded") throw error;
    room = 0;
  }
  if (room < 1) return { outcome: "context", detail: "the prompt fills the context", ...nothing };
  const { text, usage } = await engine.generate(prompt, {
    ...suffix === undefined ? {} : { suffix },
    blockLength,
    confidenceThreshold: threshold,
    unmasking: "low_confidence_dynamic",
    maxTokens: Math.min(room, decoding.maxTokens),
    temperature: 0,
    seed,
    stop: stopsOf(task).slice(0, ENGINE_STOPS),
  });
  const judged = await judge(task, text, code);
  return { ...judged, tokens: usage.completionTokens, passes: usage.forwardPasses, output: text };
}

/** Judges an output. */
export async function judge(
  task: WritingTask,
  output: string,
  code: CodeRunner,
): Promise<Judged> {
  const { prompt, suffix = "" } = task;
  switch (task.kind) {
    case "infill":
      return { outcome: isExpected(output, task.expected) ? "passed" : "failed" };
    case "function":
      return await code.typescript({
        source: prompt + output,
        name: task.name,
        // In a block, so that what was written cannot use it.
        tests: `{ const assert = require("node:assert");\n${task.tests.join("\n")} }`,
      });
    case "script":
      return await code.typescript({
        source: prompt + cutAt(output, task.stops),
        tests: task.tests,
      });
    case "python":
      return await code.python(`${prompt}${cutAt(output, task.stops)}${suffix}\n${task.tests}`);
  }
}

/** Opens a runner of at most `atOnce` programs at once. */
export function openCodeRunner(limits: Limits = LIMITS, atOnce = 2): CodeRunner {
  const known = new Map<string, Promise<Verdict>>();
  const waiting: (() => void)[] = [];
  let running = 0;
  let parser: Parser | undefined; // only for suites that need it
  const inTurn = async (work: () => Promise<Verdict>) => {
    if (running >= atOnce) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      return await work();
    } finally {
      const next = waiting.shift(); // its place is handed on
      if (next === undefined) running--;
      else next();
    }
  };
  const once = (key: string, work: () => Promise<Verdict>) => {
    const verdict = known.get(key) ?? inTurn(work);
    known.set(key, verdict);
    return verdict;
  };
  return {
    async typescript(source) {
      const script = await (parser ??= openParser()).parse(source);
      if ("error" in script) return { outcome: "syntax", detail: script.error };
      return await once(`script ${script.code}`, () => runScript(script.code, limits));
    },
    python: (code) => once(`python ${code}`, () => runPython(code, limits)),
    [Symbol.asyncDispose]: async () => await parser?.close(),
  };
}
