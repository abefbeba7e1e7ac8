/**
 * Runs generated code in a process of its own: JavaScript in a Deno that has no permissions, Python under an audit hook; both
 * with bounds on time, memory and output. What passed says so with a word that the code cannot know.
 */
import { randomUUID } from "node:crypto";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { EngineError } from "../mod.ts";

/** How a run ended. */
export type Outcome = "passed" | "failed" | "time" | "memory" | "output";

export interface Verdict {
  readonly outcome: Outcome;
  /** The error's first line, or which bound was passed. */
  readonly detail?: string;
}

export interface Limits {
  /** Wall-clock seconds. */
  readonly seconds: number;
  /** The heap of JavaScript, or the address space of Python. */
  readonly megabytes: number;
  /** Of standard output and of standard error. */
  readonly outputBytes: number;
}

export const LIMITS: Limits = { seconds: 10, megabytes: 256, outputBytes: 65536 };

/** Deno keeps a cache even for a script without imports; where no folder can be made, it does without. */
const NO_CACHE = "/dev/null/none";

/** V8 and its threads map some 0.6 GB before any script; the rest bounds what lies outside the heap (array buffers). */
const DATA_MEGABYTES = 1280;

/** Runs a script (CommonJS, with `require` for `node:assert` only) to its end. */
export function runScript(code: string, limits: Limits = LIMITS): Promise<Verdict> {
  const pass = randomUUID();
  const args = [
    ...["run", "--quiet", "--no-prompt", "--no-remote", "--no-npm", "--no-config", "--no-lock"],
    ...["--cached-only", "--no-check", `--v8-flags=--max-old-space-size=${limits.megabytes}`],
    fileURLToPath(new URL("./sandbox_runner.js", import.meta.url)),
  ];
  const input = JSON.stringify({ code, pass });
  const megabytes = limits.megabytes + DATA_MEGABYTES;
  return runBounded([Deno.execPath(), ...args], { input, pass, limits, megabytes });
}

/** Runs a Python program to its end. */
export function runPython(code: string, limits: Limits = LIMITS): Promise<Verdict> {
  const pass = randomUUID();
  const bytes = limits.megabytes * 1_048_576;
  const input = JSON.stringify({ code, pass, bytes, seconds: Math.ceil(limits.seconds) });
  const runner = fileURLToPath(new URL("./sandbox_runner.py", import.meta.url));
  return runBounded(["python3", "-I", "-B", runner], { input, pass, limits });
}

/** @throws {EngineError} `invalid_request` where this machine has no Python 3 */
export async function requirePython(): Promise<void> {
  try {
    const command = new Deno.Command("python3", { args: ["-I", "-c", ""], stdin: "null" });
    if ((await command.output()).success) return;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  throw new EngineError(
    "invalid_request",
    "these tasks are written in Python, and python3 was not found on this machine",
    { param: "suite" },
  );
}

/**
 * Runs a command with nothing of this process's environment, and ends it with everything that it started.
 *
 * @param run.megabytes bound of writable memory, where the system has one that works (Linux)
 */
export async function runBounded(
  command: readonly string[],
  run: {
    readonly input: string;
    readonly pass: string;
    readonly limits: Limits;
    readonly megabytes?: number;
  },
): Promise<Verdict> {
  const { limits } = run;
  const unix = Deno.build.os !== "windows";
  // The processor's clock ends a loop even where this process dies first and cannot.
  const bounds = [`ulimit -c 0; ulimit -t ${Math.ceil(limits.seconds) + 2}`];
  // Not -v: V8 reserves far more address space than it uses.
  if (run.megabytes !== undefined) bounds.push(`ulimit -d ${run.megabytes * 1024}`);
  const [program, ...args] = unix
    ? ["/bin/sh", "-c", `${bounds.join("; ")}; exec "$0" "$@"`, ...command]
    : command;
  const child = new Deno.Command(program, {
    args,
    cwd: tmpdir(),
    clearEnv: true,
    env: { PATH: Deno.env.get("PATH") ?? "", DENO_DIR: NO_CACHE, NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    detached: unix, // a process group of its own, which can be ended as one
  }).spawn();
  let ended: "time" | "output" | undefined;
  const end = (why: "time" | "output") => {
    ended ??= why;
    kill(child, unix);
  };
  const timer = setTimeout(() => end("time"), limits.seconds * 1000);
  try {
    const [stdout, stderr, status] = await Promise.all([
      readBounded(child.stdout, limits.outputBytes, () => end("output")),
      readBounded(child.stderr, limits.outputBytes, () => end("output")),
      child.status,
      feed(child.stdin, run.input),
    ]);
    if (ended === "time") return { outcome: "time", detail: `more than ${limits.seconds} s` };
    if (ended === "output") {
      return { outcome: "output", detail: `more than ${limits.outputBytes} bytes` };
    }
    if (status.success && stdout.endsWith(`\n${run.pass}\n`)) return { outcome: "passed" };
    return explain(stderr, status.signal);
  } finally {
    clearTimeout(timer);
    kill(child, unix); // what it left behind
  }
}

function explain(stderr: string, signal: string | null): Verdict {
  const memory = /out of ?memory|allocation failed|MemoryError/i;
  if (memory.test(stderr)) return { outcome: "memory", detail: "more memory than allowed" };
  if (signal === "SIGXCPU" || signal === "SIGKILL") {
    return { outcome: "time", detail: "more processor time than allowed" };
  }
  const line = stderr.split("\n").find((line) => line.trim() !== "") ??
    (signal === null ? "ended before its tests did" : `ended by ${signal}`);
  return { outcome: "failed", detail: line.slice(0, 300) };
}

function kill(child: Deno.ChildProcess, group: boolean): void {
  try {
    Deno.kill(group ? -child.pid : child.pid, "SIGKILL");
  } catch (error) {
    // It has ended: no such process, no such group, or one that is only waiting to be collected.
    if (error instanceof Deno.errors.NotFound || error instanceof TypeError) return;
    if (error instanceof Deno.errors.PermissionDenied) return;
    throw error;
  }
}

async function feed(stdin: WritableStream<Uint8Array>, input: string): Promise<void> {
  const writer = stdin.getWriter();
  try {
    await writer.write(new TextEncoder().encode(input));
    await writer.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error; // it died before it had read all
  }
}

async function readBounded(
  stream: ReadableStream<Uint8Array>,
  limit: number,
  onExceeded: () => void,
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "", bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (bytes > limit) {
      onExceeded();
      break;
    }
    text += decoder.decode(chunk, { stream: true });
  }
  return text;
}
