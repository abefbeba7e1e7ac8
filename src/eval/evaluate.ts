/** The whole of an evaluation: models x block lengths x thresholds x tasks, as far as the results are not there yet. */
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type BackendName, type Bundle, EngineError, loadBundle, loadEngine } from "../mod.ts";
import { attempt, openCodeRunner } from "./attempt.ts";
import { mix, openScorer, type Scorer } from "./bits.ts";
import { svgPlot } from "./plot.ts";
import { markdownTable, type Row, summarise } from "./report.ts";
import { requirePython } from "./sandbox.ts";
import { keyOf, openStore, type Result, type Settings, type Store } from "./store.ts";
import { readSuite, spread, type Suite, type SuiteFile, type Task } from "./tasks.ts";

/** What to judge, and how. */
export interface EvalOptions {
  /** Folders or URLs of bundles. */
  readonly models: readonly string[];
  readonly suite: Suite;
  readonly file: string;
  /** Every block length of each model unless given. */
  readonly blocks?: readonly number[] | undefined;
  readonly thresholds: readonly number[];
  /** So many tasks, evenly spread over the file. */
  readonly limit?: number | undefined;
  readonly seed: number;
  readonly maxTokens: number;
  /** Draws of masks for each text. */
  readonly draws: number;
  readonly backend: "auto" | BackendName;
  readonly threads: number;
  /** Folder for the results and the report. */
  readonly out?: string | undefined;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: EvalProgress) => void;
}

export interface EvalProgress {
  readonly model: string;
  readonly done: number;
  readonly total: number;
  /** How many were done before this run. */
  readonly known: number;
}

export interface Report {
  readonly rows: readonly Row[];
  /** The rows as a Markdown table. */
  readonly table: string;
}

/** Generations under way at once: as many as an engine has places. */
const AT_ONCE = 8;

const QUALITY: Readonly<Record<Suite, string>> = {
  bpb: "bits per byte",
  infill: "exact",
  functions: "pass@1",
  humaneval: "pass@1",
};

/**
 * Judges models. Results that `out` has already are not made again.
 *
 * @throws {EngineError} `invalid_request` | `cancelled`, and as loadEngine
 */
export async function evaluate(options: EvalOptions): Promise<Report> {
  const file = await readSuite(options.file, options.suite);
  const tasks = spread(file.tasks, options.limit);
  if (tasks.some((task) => task.kind === "python")) await requirePython();
  const store = await openStore(options.out);
  const models: { label: string; weightsSha256: string; source: string }[] = [];
  const rows: Row[] = [];
  try {
    for (const source of options.models) {
      const bundle = await loadBundle(source);
      const label = labelOf(bundle, source, models.map((model) => model.label));
      const weightsSha256 = bundle.manifest.files.weights.sha256;
      models.push({ label, weightsSha256, source });
      const runs = planRuns(bundle, label, file, options);
      await fillIn(bundle, runs, tasks, store, options);
      for (const run of runs) {
        const results = tasks.flatMap(({ id }) => store.get(run.key, id) ?? []);
        const named = results.map((result) => ({ ...result, model: label }));
        rows.push(summarise(named, { parses: options.suite === "functions" }));
      }
    }
  } finally {
    await store.close();
  }
  const table = markdownTable(rows, QUALITY[options.suite]);
  if (options.out !== undefined) {
    await writeReport(options.out, { file, models, rows, table, options });
  }
  return { rows, table };
}

/** Name and dtype; with the folder where two would be the same. */
function labelOf({ manifest }: Bundle, source: string, taken: readonly string[]): string {
  const label = `${manifest.name} ${manifest.dtype}`;
  return taken.includes(label) ? `${label} (${source})` : label;
}

/** One setting of one model. */
interface Run {
  readonly key: string;
  readonly label: string;
  readonly settings: Settings;
}

function planRuns(
  { manifest }: Bundle,
  label: string,
  { suite, sha256, tasks }: SuiteFile,
  options: EvalOptions,
): Run[] {
  const { trained, default: usual } = manifest.blockLength;
  const blocks = options.blocks ?? trained ?? (typeof usual === "number" ? [usual] : []);
  if (blocks.length === 0) {
    throw new EngineError("invalid_request", `--blocks: ${label} knows no blocks; name lengths`, {
      param: "blocks",
    });
  }
  const alien = trained && blocks.find((length) => !trained.includes(length));
  if (trained !== undefined && alien !== undefined) {
    throw new EngineError(
      "invalid_request",
      `--blocks: ${alien} is not among the block lengths of ${label}: ${trained.join(", ")}`,
      { param: "blocks" },
    );
  }
  const fillsIn = tasks.some((task) => task.kind !== "text" && task.suffix !== undefined);
  if (fillsIn && manifest.infill === undefined) {
    throw new EngineError("invalid_request", `--model: ${label} was not trained to fill in`, {
      param: "model",
    });
  }
  const { backend, seed, draws, maxTokens } = options;
  const common = { weights: manifest.files.weights.sha256, file: sha256, suite, backend, seed };
  const settings = blocks.flatMap((blockLength): Settings[] =>
    suite === "bpb"
      ? [{ ...common, blockLength, draws }]
      : options.thresholds.map((threshold) => ({ ...common, blockLength, threshold, maxTokens }))
  );
  return settings.map((settings) => ({ key: keyOf(settings), label, settings }));
}

/** Makes the results that are missing; the model is opened only where some are. */
async function fillIn(
  bundle: Bundle,
  runs: readonly Run[],
  tasks: readonly Task[],
  store: Store,
  options: EvalOptions,
): Promise<void> {
  const missing = runs.flatMap((run) =>
    tasks.filter(({ id }) => store.get(run.key, id) === undefined).map((task) => ({ run, task }))
  );
  const total = runs.length * tasks.length;
  const known = total - missing.length;
  let done = known;
  const tell = () => options.onProgress?.({ model: runs[0].label, done, total, known });
  tell();
  if (missing.length === 0) return;
  const keep = async (result: Result) => {
    await store.add(result);
    done++;
    tell();
  };
  const named = ({ key, label, settings }: Run, task: Task) => ({
    run: key,
    task: task.id,
    model: label,
    blockLength: settings.blockLength,
  });
  if (options.suite === "bpb") {
    await using scorer = await openedScorer(bundle, options);
    for (const run of runs) {
      const texts = missing.filter((item) => item.run === run)
        .flatMap(({ task }) => task.kind === "text" ? [task] : [])
        .sort((a, b) => a.text.length - b.text.length); // like lengths share a pass
      for (let i = 0; i < texts.length; i += scorer.batch) {
        options.signal?.throwIfAborted();
        const part = texts.slice(i, i + scorer.batch);
        const asked = part.map(({ id, text }) => ({ text, seed: mix(options.seed, Number(id)) }));
        const scored = await scorer.score(asked, run.settings.blockLength, options.draws);
        for (const [p, task] of part.entries()) await keep({ ...named(run, task), ...scored[p] });
      }
    }
    return;
  }
  const { backend, threads } = options;
  await using engine = await loadEngine(bundle, { backend, threads });
  await using code = openCodeRunner();
  await inParallel(missing, AT_ONCE, async ({ run, task }) => {
    options.signal?.throwIfAborted();
    const { blockLength, threshold } = run.settings;
    if (task.kind === "text" || threshold === undefined) return;
    const decoding = { ...options, blockLength, threshold };
    const written = await attempt(engine, task, decoding, code);
    await keep({ ...named(run, task), threshold, ...written });
  });
}

async function openedScorer(bundle: Bundle, { backend, threads }: EvalOptions) {
  const backends = backend === "auto" ? ["webgpu", "wasm"] as const : [backend];
  const scorer: Scorer = await openScorer(bundle, { backends, threads });
  return { ...scorer, [Symbol.asyncDispose]: () => scorer.close() };
}

/** Works through `items` in order, `atOnce` at a time; the first failure ends it, when what is under way has ended. */
async function inParallel<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failure: { readonly error: unknown } | undefined;
  const worker = async () => {
    while (next < items.length && failure === undefined) {
      try {
        await work(items[next++]);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  if (failure !== undefined) throw failure.error;
}

async function writeReport(
  folder: string,
  report: {
    readonly file: SuiteFile;
    readonly models: readonly { readonly label: string; readonly weightsSha256: string }[];
    readonly rows: readonly Row[];
    readonly table: string;
    readonly options: EvalOptions;
  },
): Promise<void> {
  const { file, models, rows, table, options } = report;
  const { suite, seed, limit, backend } = options;
  const how = suite === "bpb" ? { draws: options.draws } : { maxTokens: options.maxTokens };
  const facts = {
    suite,
    format: file.format,
    fileSha256: file.sha256,
    limit,
    seed,
    backend,
    ...how,
  };
  const write = async (name: string, text: string) => {
    const path = join(folder, name);
    if (await readFile(path, "utf8").catch(() => "") === text) return; // nothing new
    await writeFile(`${path}.part`, text);
    await rename(`${path}.part`, path);
  };
  await write("results.json", `${JSON.stringify({ ...facts, models, rows }, undefined, 1)}\n`);
  await write("table.md", table);
  await write("plot.svg", plotOf(rows, suite));
}

/** Quality against tokens per forward, or bits per byte against the block length; a line for each model and block length. */
export function plotOf(rows: readonly Row[], suite: Suite): string {
  const bits = rows.filter((row) => "bitsPerByte" in row);
  const grouped = <T extends Row>(rows: readonly T[], name: (row: T) => string) =>
    [...Map.groupBy(rows, name)].map(([name, rows]) => ({ name, rows }));
  if (bits.length > 0) {
    return svgPlot({
      title: "Bits per byte of held-out text (less is better)",
      x: "block length",
      y: "bits per byte",
      ticks: [...new Set(bits.map((row) => row.blockLength))].sort((a, b) => a - b),
      series: grouped(bits, (row) => row.model).map(({ name, rows }) => ({
        name,
        points: rows.map((row) => ({ x: row.blockLength, y: row.bitsPerByte, error: row.error })),
      })),
    });
  }
  const written = rows.filter((row) => "quality" in row);
  return svgPlot({
    title: `Suite ${suite}: ${QUALITY[suite]} against speed, at each confidence threshold`,
    x: "tokens per forward pass",
    y: `${QUALITY[suite]}, %`,
    series: grouped(written, (row) => `${row.model}, block ${row.blockLength}`)
      .map(({ name, rows }) => ({
        name,
        points: rows.map((row) => ({
          x: row.tokensPerForward,
          y: 100 * row.quality,
          label: String(row.threshold),
        })),
      })),
  });
}
