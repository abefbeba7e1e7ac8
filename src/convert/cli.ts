/** `deno task convert SOURCE TARGET`: flags, environment and progress; the work is in convert.ts and hub.ts. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { EngineError, messageOf } from "../errors.ts";
import { type Dtype, DTYPES } from "../manifest.ts";
import { checkFirst, convertCheckpoint } from "./convert.ts";
import { type ProgressBar, progressBar } from "./progress_bar.ts";
import { openSource } from "./source.ts";

const USAGE = `Usage: deno task convert SOURCE TARGET [options]

  SOURCE            folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json, …),
                    or owner/name or owner/name@revision, which is downloaded from the Hub
  TARGET            folder for the bundle
  --dtype DTYPE     ${DTYPES.join(" | ")} (default q8)
  --variant NAME    which training of its family it is, where the config does not tell (bd3lm | mdlm)
  --name NAME       name of the model (default: the recipe's, or else TARGET's)
  --recipe FILE     JSON: name, defaults, samplePrompts, infill markers, precision
  --force           replace a bundle that is there already
  --cache DIR       folder for downloads (default: CINNABAR_CACHE, XDG_CACHE_HOME/cinnabar or
                    ~/.cache/cinnabar)

Environment: HF_TOKEN, an access token for gated and private models; HF_ENDPOINT, another hub.
`;

/** Runs the command and resolves to its exit code. */
async function main(args: string[]): Promise<number> {
  let parsed;
  try {
    parsed = parseArgs({
      args,
      allowPositionals: true,
      options: {
        dtype: { type: "string", default: "q8" },
        name: { type: "string" },
        variant: { type: "string" },
        recipe: { type: "string" },
        force: { type: "boolean", default: false },
        cache: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    console.error(`${messageOf(error)}\n\n${USAGE}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const dtype = DTYPES.find((name) => name === values.dtype);
  if (positionals.length !== 2 || dtype === undefined) {
    const fact = dtype === undefined
      ? `--dtype ${values.dtype} is not one of ${DTYPES.join(", ")}`
      : "SOURCE and TARGET are needed";
    console.error(`${fact}\n\n${USAGE}`);
    return 2;
  }
  try {
    await run(positionals[0], positionals[1], dtype, values);
    return 0;
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    console.error(error.message);
    return 1;
  }
}

async function run(
  named: string,
  target: string,
  dtype: Dtype,
  options: {
    name?: string;
    variant?: string;
    recipe?: string;
    force: boolean;
    cache?: string;
  },
): Promise<void> {
  const { name, variant, recipe: recipeFile, force, cache } = options;
  const recipe = recipeFile === undefined ? undefined : await readRecipe(recipeFile);
  // Ctrl-C ends the work as an error would, so that nothing half-written stays.
  const abort = new AbortController();
  process.once(
    "SIGINT",
    () => abort.abort(new EngineError("cancelled", "interrupted; nothing was written")),
  );
  const { signal } = abort;

  const source = await withBar((update, note) =>
    openSource(named, {
      cacheDir: cache ?? cacheFolder(),
      endpoint: setting("HF_ENDPOINT"),
      token: setting("HF_TOKEN"),
      signal,
      onNote: note,
      onProgress: ({ file, bytesDone, bytesTotal }) =>
        update({ done: bytesDone, total: bytesTotal, label: file }),
      beforeWeights: async (source) => void await checkFirst({ source, target, force }),
    })
  );
  const { architecture, files } = await withBar((update) =>
    convertCheckpoint({
      source,
      target,
      dtype,
      name,
      variant,
      recipe,
      force,
      signal,
      onProgress: ({ tensor, bytesWritten, bytesTotal }) =>
        update({ done: bytesWritten, total: bytesTotal, label: tensor }),
    })
  );
  const { layers, hiddenSize, vocabSize } = architecture;
  console.log(
    `${target}: ${dtype}, ${layers} layers of width ${hiddenSize}, ${vocabSize} tokens, ` +
      `${(files.weights.bytes / 1e6).toFixed(1)} MB of weights`,
  );
}

/** Runs `work` with a progress bar, which makes room for notes and is left whatever happens. */
async function withBar<T>(
  work: (update: ProgressBar["update"], note: (text: string) => void) => Promise<T>,
): Promise<T> {
  const bar = progressBar(process.stdout);
  const note = (text: string) => {
    bar.end();
    console.log(text);
  };
  try {
    return await work(bar.update, note);
  } finally {
    bar.end();
  }
}

/** A variable of the environment; an empty one counts as none. */
function setting(name: string): string | undefined {
  return process.env[name]?.trim() || undefined;
}

/** The folder for downloads, undefined where the environment knows no place for it. */
function cacheFolder(): string | undefined {
  const home = setting("HOME") ?? setting("USERPROFILE");
  const caches = setting("XDG_CACHE_HOME") ??
    (home === undefined ? undefined : join(home, ".cache"));
  return setting("CINNABAR_CACHE") ?? (caches === undefined ? undefined : join(caches, "cinnabar"));
}

async function readRecipe(file: string) {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new EngineError("invalid_request", `--recipe ${file}: ${messageOf(cause)}`, { cause });
  }
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
