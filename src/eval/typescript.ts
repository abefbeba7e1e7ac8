/** The TypeScript parser, started when it is first needed. */
import { fileURLToPath } from "node:url";
import { EngineError } from "../mod.ts";

/** A program to parse. */
export interface Source {
  readonly source: string;
  /**
   * Cut the source after the first complete top-level function (or variable) of this name. One whose body is not closed goes
   * to the end of the source, and is then a syntax error.
   */
  readonly name?: string;
  /** Code that goes behind it, once it has parsed alone. */
  readonly tests: string;
}

/** JavaScript as CommonJS, the types stripped unchecked; or the first syntax error. */
export type Script = { readonly code: string } | { readonly error: string };

export interface Parser {
  /** @throws {EngineError} `backend_unavailable` where the parser does not start (it is downloaded once) */
  parse(source: Source): Promise<Script>;
  close(): Promise<void>;
}

/** Starts the parser's process. */
export function openParser(): Parser {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", "--no-prompt", "--no-config", "--no-lock", "--allow-env"],
      fileURLToPath(new URL("./typescript_process.js", import.meta.url)),
    ],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const writer = child.stdin.getWriter();
  /** answers come in the order of the requests */
  const waiting: { resolve(script: Script): void; reject(error: unknown): void }[] = [];
  let dead: EngineError | undefined;
  const reading = (async () => {
    let rest = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) waiting.shift()?.resolve(JSON.parse(line));
    }
    dead = new EngineError("backend_unavailable", "the TypeScript parser (npm) does not run");
    for (const { reject } of waiting.splice(0)) reject(dead);
  })();
  return {
    parse(source) {
      if (dead !== undefined) return Promise.reject(dead);
      return new Promise((resolve, reject) => {
        waiting.push({ resolve, reject });
        const line = new TextEncoder().encode(`${JSON.stringify(source)}\n`);
        writer.write(line).catch(() => {}); // its end is seen by the reader
      });
    },
    async close() {
      await writer.close().catch(() => {}); // it has ended already
      await reading;
      await child.status;
    },
  };
}
