/** `deno task convert SOURCE TARGET`: flags and progress; the work is in convert.ts. */
import { readFile } from "node:fs/promises";
import process from "node:process";
import { parseArgs } from "node:util";
import { EngineError, messageOf } from "../errors.ts";
import { type Dtype, DTYPES } from "../manifest.ts";
import { convertCheckpoint } from "./convert.ts";
import type { ConvertProgress } from "./tensors.ts";

const USAGE = `Usage: deno task convert SOURCE TARGET [options]

  SOURCE            folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json, …)
  TARGET            folder for the bundle
  --dtype DTYPE     ${DTYPES.join(" | ")} (default q8)
  --name NAME       name of the model (default: the recipe's, or else TARGET's)
  --recipe FILE     JSON: name, defaults, samplePrompts, infill markers, precision
  --force           replace a bundle that is there already
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
        recipe: { type: "string" },
        force: { type: "boolean", default: false },
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
    console.error(`\n${error.message}`);
    return 1;
  }
}

async function run(
  source: string,
  target: string,
  dtype: Dtype,
  { name, recipe: recipeFile, force }: { name?: string; recipe?: string; force: boolean },
): Promise<void> {
  const recipe = recipeFile === undefined ? undefined : await readRecipe(recipeFile);
  // Ctrl-C ends the conversion as an error would, so that nothing half-written stays.
  const abort = new AbortController();
  process.once(
    "SIGINT",
    () => abort.abort(new EngineError("cancelled", "interrupted; nothing was written")),
  );
  const { architecture, files } = await convertCheckpoint({
    source,
    target,
    dtype,
    name,
    recipe,
    force,
    signal: abort.signal,
    onProgress: progressLine(performance.now()),
  });
  const { layers, hiddenSize, vocabSize } = architecture;
  console.log(
    `\n${target}: ${dtype}, ${layers} layers of width ${hiddenSize}, ${vocabSize} tokens, ` +
      `${(files.weights.bytes / 1e6).toFixed(1)} MB of weights`,
  );
}

async function readRecipe(file: string) {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new EngineError("invalid_request", `--recipe ${file}: ${messageOf(cause)}`, { cause });
  }
}

/** A progress bar on a terminal, a line every 10 % elsewhere. */
function progressLine(started: number): (progress: ConvertProgress) => void {
  let told = -1;
  return ({ tensor, bytesWritten, bytesTotal }) => {
    const share = bytesWritten / bytesTotal;
    const seconds = (performance.now() - started) / 1000;
    const left = seconds / share - seconds;
    const text = `${(share * 100).toFixed(0).padStart(3)} %  ` +
      `${(bytesWritten / 1e6).toFixed(0)} of ${(bytesTotal / 1e6).toFixed(0)} MB  ` +
      `${(bytesWritten / 1e6 / seconds).toFixed(0)} MB/s  ${left.toFixed(0)} s left`;
    if (process.stdout.isTTY) {
      const bar = "█".repeat(Math.round(share * 24)).padEnd(24, "░");
      process.stdout.write(`\r${bar} ${text}  ${tensor.padEnd(32).slice(0, 32)}`);
    } else if (Math.floor(share * 10) > told) {
      told = Math.floor(share * 10);
      console.log(text);
    }
  };
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
