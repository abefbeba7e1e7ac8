/** Suite files to tasks: the accepted formats as data, told apart by their fields. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { gunzipSync } from "node:zlib";
import * as v from "valibot";
import { EngineError } from "../mod.ts";

/** The suites, in the order in which help lists them. */
export const SUITES = ["bpb", "infill", "functions", "humaneval"] as const;

/** Name of a suite. */
export type Suite = typeof SUITES[number];

/** Held-out text to score. */
export interface TextTask {
  readonly kind: "text";
  readonly id: string;
  readonly text: string;
}

/** Something to write, and how it is judged. */
export type WritingTask =
  & { readonly id: string; readonly prompt: string; readonly suffix?: string }
  & (
    | { readonly kind: "infill"; readonly expected: string }
    | { readonly kind: "function"; readonly name: string; readonly tests: readonly string[] }
    | { readonly kind: "script"; readonly tests: string; readonly stops: readonly string[] }
    | { readonly kind: "python"; readonly tests: string; readonly stops: readonly string[] }
  );

export type Task = TextTask | WritingTask;

/** A suite file, read. */
export interface SuiteFile {
  readonly suite: Suite;
  /** Name of its format. */
  readonly format: string;
  /** SHA-256 of the file as it lies there. */
  readonly sha256: string;
  readonly tasks: readonly Task[];
}

interface Format {
  readonly name: string;
  readonly suite: Suite;
  /** Fields that tell it from the formats after it in the table. */
  readonly fields: readonly string[];
  /** @throws {v.ValiError} where a field has another type */
  task(line: unknown, index: number): Task;
}

/** Where a function of a Python file has ended: the stops that the field uses. */
const PYTHON_STOPS = ["\ndef ", "\nclass ", "\nif ", "\nprint(", "\n#", "\n@", "\nassert "];

const text = v.string("must be a string");
const texts = v.array(text, "must be a list of strings");
const PYTHON = { task_id: text, prompt: text, test: text, entry_point: text };

const INFILL = v.object({ prefix: text, suffix: text, expected: text });
const PYTHON_INFILL = v.object({ ...PYTHON, suffix: text });
const HUMAN_EVAL = v.object(PYTHON);
const MULTIPL_E = v.object({
  name: text,
  prompt: text,
  tests: text,
  stop_tokens: v.optional(texts, []),
  language: v.picklist(["ts", "js"], "must be one of ts, js"),
});
const FUNCTIONS = v.object({ name: text, prompt: text, tests: v.pipe(texts, v.minLength(1)) });
const TEXT = v.object({ text });

const check = (test: string, entryPoint: string) => `${test}\n\ncheck(${entryPoint})\n`;

/** Every accepted format; the first whose fields are all there is taken. */
const FORMATS: readonly Format[] = [
  {
    name: "human-eval-infilling",
    suite: "humaneval",
    fields: ["task_id", "prompt", "suffix", "test", "entry_point"],
    task(line) {
      const { task_id, prompt, suffix, test, entry_point } = v.parse(PYTHON_INFILL, line);
      const tests = check(test, entry_point);
      return { kind: "python", id: task_id, prompt, suffix, tests, stops: [] };
    },
  },
  {
    name: "HumanEval",
    suite: "humaneval",
    fields: ["task_id", "prompt", "test", "entry_point"],
    task(line) {
      const { task_id, prompt, test, entry_point } = v.parse(HUMAN_EVAL, line);
      const tests = check(test, entry_point);
      return { kind: "python", id: task_id, prompt, tests, stops: PYTHON_STOPS };
    },
  },
  {
    name: "MultiPL-E",
    suite: "humaneval",
    fields: ["name", "prompt", "tests", "language"],
    task(line) {
      const { name, prompt, tests, stop_tokens } = v.parse(MULTIPL_E, line);
      return { kind: "script", id: name, prompt, tests, stops: stop_tokens };
    },
  },
  {
    name: "functions",
    suite: "functions",
    fields: ["name", "prompt", "tests"],
    task(line) {
      const { name, prompt, tests } = v.parse(FUNCTIONS, line);
      return { kind: "function", id: name, name, prompt, tests };
    },
  },
  {
    name: "infill",
    suite: "infill",
    fields: ["prefix", "suffix", "expected"],
    task(line, index) {
      const { prefix, suffix, expected } = v.parse(INFILL, line);
      return { kind: "infill", id: String(index), prompt: prefix, suffix, expected };
    },
  },
  {
    name: "text",
    suite: "bpb",
    fields: ["text"],
    task: (line, index) => ({ kind: "text", id: String(index), ...v.parse(TEXT, line) }),
  },
];

/** A plain text is scored in pieces of about so many characters, each from a clean start. */
const PIECE_CHARACTERS = 1000;

/**
 * Reads a suite file: JSON lines, gzipped or not; `bpb` and `infill` also take JSON
 * with `documents`, `bpb` plain text.
 *
 * @throws {EngineError} `invalid_request`, naming the line, the field and the accepted forms
 */
export async function readSuite(file: string, suite: Suite): Promise<SuiteFile> {
  const problem = (fact: string, cause?: unknown) =>
    new EngineError("invalid_request", `${file}: ${fact}`, { param: "file", cause });
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (cause) {
    throw problem(cause instanceof Error ? cause.message : String(cause), cause);
  }
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const packed = file.endsWith(".gz");
  const name = basename(file, ".gz");
  let content: string;
  try {
    content = new TextDecoder("utf-8", { fatal: true }).decode(packed ? gunzipSync(bytes) : bytes);
  } catch (cause) {
    throw problem(`is not ${packed ? "gzipped " : ""}UTF-8 text`, cause);
  }
  if (suite === "bpb" && !/\.jsonl?$/.test(name)) {
    const tasks = pieces(content).map((piece, i) => ({ kind: "text", id: `${i}`, text: piece }));
    if (tasks.length === 0) throw problem("is empty");
    return { suite, format: "plain text", sha256, tasks: tasks as TextTask[] };
  }
  const lines = name.endsWith(".json")
    ? documentsOf(parse(content, () => problem("is not JSON")), () => problem(accepted(suite)))
    : content.split("\n").flatMap((line, i) =>
      line.trim() === ""
        ? []
        : [{ at: i + 1, value: parse(line, () => problem(`line ${i + 1} is not JSON`)) }]
    );
  if (lines.length === 0) throw problem("holds no tasks");
  const format = detect(lines[0].value);
  const alsoText = suite === "infill" && format?.name === "text";
  if (format === undefined || (format.suite !== suite && !alsoText)) {
    const what = format === undefined
      ? `line ${lines[0].at} has the fields ${fieldsOf(lines[0].value).join(", ") || "(none)"}`
      : `is in the format ${format.name}, for --suite ${format.suite}`;
    throw problem(`${what}; ${accepted(suite)}`);
  }
  const tasks = lines.map(({ at, value }, index) => {
    try {
      return format.task(value, index);
    } catch (cause) {
      if (!(cause instanceof v.ValiError)) throw cause;
      const [issue] = cause.issues;
      throw problem(`line ${at}: ${v.getDotPath(issue) ?? "(root)"}: ${issue.message}`, cause);
    }
  });
  const seen = new Set<string>();
  for (const [i, { id }] of tasks.entries()) {
    if (seen.has(id)) throw problem(`line ${lines[i].at}: a second task is named ${id}`);
    seen.add(id);
  }
  if (!alsoText) return { suite, format: format.name, sha256, tasks };
  const withLine = tasks.flatMap((task) => task.kind === "text" ? hideLine(task) : []);
  if (withLine.length === 0) throw problem("no text has a line of code between two others");
  return { suite, format: "text, a line of each hidden", sha256, tasks: withLine };
}

/** The task of filling in one line of a text: any but the first, the last, comments and brackets. */
function hideLine({ id, text }: TextTask): WritingTask[] {
  const lines = text.split("\n");
  const places = lines.flatMap((line, i) =>
    i > 0 && i < lines.length - 1 && /\w/.test(line) && !/^\s*(\/[/*]|\*|#)/.test(line) ? [i] : []
  );
  if (places.length === 0) return [];
  const place = places[(Math.imul(Number(id) + 1, 0x9e3779b1) >>> 0) % places.length];
  const line = lines[place];
  const indent = line.slice(0, line.length - line.trimStart().length);
  const prompt = `${lines.slice(0, place).join("\n")}\n${indent}`;
  const suffix = `\n${lines.slice(place + 1).join("\n")}`;
  return [{ kind: "infill", id, prompt, suffix, expected: line.trim() }];
}

/** `limit` tasks, evenly spread, because files are often sorted. */
export function spread<T>(tasks: readonly T[], limit: number | undefined): readonly T[] {
  if (limit === undefined || limit >= tasks.length) return tasks;
  return Array.from({ length: limit }, (_, i) => tasks[Math.floor((i * tasks.length) / limit)]);
}

function detect(line: unknown): Format | undefined {
  const fields = new Set(fieldsOf(line));
  return FORMATS.find((format) => format.fields.every((field) => fields.has(field)));
}

const fieldsOf = (line: unknown): string[] =>
  typeof line === "object" && line !== null ? Object.keys(line) : [];

function accepted(suite: Suite): string {
  const forms = FORMATS.filter((format) => format.suite === suite)
    .map((format) => `${format.name} { ${format.fields.join(", ")} }`);
  const documents = 'JSON { documents: [{ text }] } in a ".json"';
  const also: Partial<Record<Suite, string>> = {
    bpb: `, ${documents}, plain text`,
    infill: ` or text { text }, ${documents}: a line of each is hidden`,
  };
  return `--suite ${suite} takes JSON lines of ${forms.join(" or ")}${also[suite] ?? ""}`;
}

function parse(json: string, problem: () => EngineError): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw problem(); // JSON.parse's message quotes the text, which may be a whole file
  }
}

function documentsOf(json: unknown, problem: () => EngineError) {
  const result = v.safeParse(v.object({ documents: v.array(v.unknown()) }), json);
  if (!result.success) throw problem();
  return result.output.documents.map((value, i) => ({ at: i + 1, value }));
}

/** Cuts a text at line ends. */
function pieces(content: string): string[] {
  const out: string[] = [];
  let piece = "";
  for (const line of content.split(/(?<=\n)/)) {
    if (piece !== "" && piece.length + line.length > PIECE_CHARACTERS) {
      out.push(piece);
      piece = "";
    }
    piece += line;
  }
  return [...out, piece].filter((text) => text.trim() !== "");
}
