/** The command line of main.ts: flags and environment to a checked configuration; nothing here touches the world. */
import { parseArgs } from "node:util";
import { type BackendName, BACKENDS, type LoadProgress } from "../src/mod.ts";

/** What main.ts is asked to run. */
export interface ServerConfig {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Folder or URL of a bundle. */
  readonly model: string;
  readonly backend: "auto" | BackendName;
  readonly threads: number | undefined;
  readonly slots: number | undefined;
  readonly cors: readonly string[];
}

/** A command line that cannot be understood; its message is for the person who wrote it. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

const FLAGS = {
  port: { type: "string" },
  host: { type: "string" },
  model: { type: "string" },
  backend: { type: "string" },
  threads: { type: "string" },
  slots: { type: "string" },
  cors: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

const BACKEND_NAMES = ["auto", ...BACKENDS] as const;

export const HELP = `Cinnabar serves a diffusion language model.

  deno task start [flags]

  --port N        port to listen on, 0 for any free one             (PORT, 8000)
  --host ADDRESS  address to listen on; 0.0.0.0 to be reached from
                  other machines: there is no access control        (HOST, 127.0.0.1)
  --model BUNDLE  folder or URL of a bundle                         (MODEL, models/tiny)
  --backend NAME  ${BACKEND_NAMES.join(", ").padEnd(50)}(BACKEND, auto)
  --threads N     threads of a CPU backend                          (THREADS, up to 4)
  --slots N       generations under way at once                     (SLOTS, 8)
  --cors ORIGINS  origins, separated by commas, whose pages may
                  call this server; * for all                       (CORS, none)
  --help          this text

In brackets: the environment variable, and what holds without either. A flag wins over its variable.
`;

/**
 * Reads the command line.
 *
 * @param defaultModel used where neither flag nor environment names a model
 * @returns the configuration, or `"help"` where help was asked for
 * @throws {UsageError}
 */
export function parseCli(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  defaultModel: string,
): ServerConfig | "help" {
  const flags = parseFlags(args);
  if (flags.help) return "help";
  const read = (name: Exclude<keyof typeof FLAGS, "help">): Setting => {
    const flag = flags[name];
    if (flag !== undefined) return { from: `--${name}`, value: flag };
    const variable = name.toUpperCase();
    return { from: variable, value: env[variable] || undefined }; // set but empty counts as unset
  };
  const origins = read("cors").value?.split(",").map((origin) => origin.trim()) ?? [];
  return {
    port: wholeNumber(read("port"), 0, 65535) ?? 8000,
    host: nonEmpty(read("host")) ?? "127.0.0.1",
    model: nonEmpty(read("model")) ?? defaultModel,
    backend: oneOf(read("backend"), BACKEND_NAMES) ?? "auto",
    threads: wholeNumber(read("threads"), 1, 256),
    slots: wholeNumber(read("slots"), 1, 1024),
    cors: origins.filter((origin) => origin !== ""),
  };
}

/** A value and where it was written. */
interface Setting {
  readonly from: string;
  readonly value: string | undefined;
}

function parseFlags(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: FLAGS, strict: true }).values;
  } catch (error) {
    const [fact] = error instanceof Error ? error.message.split(/\. |\n/) : [String(error)];
    const names = Object.keys(FLAGS).map((name) => `--${name}`).join(", ");
    throw new UsageError(`${fact.replace(/\.$/, "")}. The flags are ${names}`, { cause: error });
  }
}

function nonEmpty({ from, value }: Setting): string | undefined {
  if (value === "") throw new UsageError(`${from} needs a value`);
  return value;
}

function wholeNumber({ from, value }: Setting, least: number, most: number): number | undefined {
  if (value === undefined) return undefined;
  const number = /^\d+$/.test(value) ? Number(value) : NaN;
  if (number >= least && number <= most) return number;
  throw new UsageError(`${from} must be a whole number from ${least} to ${most}, not "${value}"`);
}

function oneOf<Name extends string>(
  { from, value }: Setting,
  names: readonly Name[],
): Name | undefined {
  if (value === undefined) return undefined;
  const name = names.find((name) => name === value);
  if (name !== undefined) return name;
  throw new UsageError(`${from} must be one of ${names.join(", ")}, not "${value}"`);
}

/**
 * A line now and then about a load that takes long, silence about one that does not.
 *
 * @param now clock in milliseconds
 */
export function progressLines(
  print: (line: string) => void,
  now: () => number = () => performance.now(),
): (progress: LoadProgress) => void {
  const everyMs = 1000;
  let last = now();
  return ({ file, received, total }) => {
    if (now() - last < everyMs) return;
    last = now();
    const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
    print(`loading ${file}: ${megabytes(received)} of ${megabytes(total)} MB`);
  };
}

/** A command that can be pasted into a shell to see the server answer. */
export function curlLine(url: string, prompt: string): string {
  const body = JSON.stringify({ prompt, max_tokens: 64 }).replaceAll("'", `'\\''`);
  return `curl ${url}v1/generate -H 'content-type: application/json' -d '${body}'`;
}
