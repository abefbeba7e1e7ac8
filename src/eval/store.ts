/** Results on disk: one JSON line each, appended as they come, so that a run that was cut off goes on where it was. */
import { createHash } from "node:crypto";
import { mkdir, open, readFile, truncate } from "node:fs/promises";
import { join } from "node:path";
import { EngineError } from "../mod.ts";
import type { Outcome } from "./sandbox.ts";

/** Everything that a result depends on, its task aside. */
export interface Settings {
  /** SHA-256 of the model's weights. */
  readonly weights: string;
  /** SHA-256 of the suite's file. */
  readonly file: string;
  readonly suite: string;
  readonly backend: string;
  readonly blockLength: number;
  readonly seed: number;
  /** Of suites that write. */
  readonly threshold?: number;
  readonly maxTokens?: number;
  /** Of suites that score text. */
  readonly draws?: number;
}

interface Named {
  /** Key of the settings. */
  readonly run: string;
  readonly task: string;
  /** For people; the settings are in the key. */
  readonly model: string;
  readonly blockLength: number;
}

/** A text that was written and judged. */
export interface Written extends Named {
  readonly threshold: number;
  /** `syntax`: it does not parse. `context`: the prompt leaves no room. */
  readonly outcome: Outcome | "syntax" | "context";
  readonly detail?: string;
  readonly tokens: number;
  readonly passes: number;
  readonly output: string;
}

/** A text that was scored. */
export interface Scored extends Named {
  /** One estimate for each draw of masks. */
  readonly nats: readonly number[];
  readonly bytes: number;
}

export type Result = Written | Scored;

export interface Store {
  get(run: string, task: string): Result | undefined;
  add(result: Result): Promise<void>;
  close(): Promise<void>;
}

/** Raised when the way of judging changes, so that old results are not taken for new ones. */
const EDITION = 1;

/** A short name for settings; the same settings have the same. */
export function keyOf(settings: Settings): string {
  const ordered = Object.entries(settings).filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => a < b ? -1 : 1);
  const text = JSON.stringify([EDITION, ordered]);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

const place = (run: string, task: string) => `${run} ${task}`;

/**
 * Opens `results.jsonl` in `folder`, or keeps results in memory only. A last line that was cut off is removed.
 *
 * @throws {EngineError} `invalid_request` where a line in the middle is damaged
 */
export async function openStore(folder: string | undefined): Promise<Store> {
  const results = new Map<string, Result>();
  if (folder === undefined) {
    return {
      get: (run, task) => results.get(place(run, task)),
      add: (result) => Promise.resolve(void results.set(place(result.run, result.task), result)),
      close: () => Promise.resolve(),
    };
  }
  await mkdir(folder, { recursive: true });
  const path = join(folder, "results.jsonl");
  const bytes = await readFile(path).catch((error) => {
    if (error.code === "ENOENT") return new Uint8Array(0); // the first run
    throw error;
  });
  const whole = bytes.lastIndexOf(0x0a) + 1;
  const lines = new TextDecoder().decode(bytes.subarray(0, whole)).split("\n").slice(0, -1);
  for (const [i, line] of lines.entries()) {
    try {
      const result: Result = JSON.parse(line); // this program wrote it
      results.set(place(result.run, result.task), result);
    } catch (cause) {
      throw new EngineError(
        "invalid_request",
        `${path}: line ${i + 1} is damaged; delete that line, or the file to begin anew`,
        { param: "out", cause },
      );
    }
  }
  if (whole < bytes.length) await truncate(path, whole);
  const file = await open(path, "a");
  let writing: Promise<unknown> = Promise.resolve();
  return {
    get: (run, task) => results.get(place(run, task)),
    add(result) {
      results.set(place(result.run, result.task), result);
      const written = writing.then(() => file.appendFile(`${JSON.stringify(result)}\n`));
      writing = written.catch(() => {}); // its caller hears of it
      return written;
    },
    async close() {
      await writing;
      await file.close();
    },
  };
}
