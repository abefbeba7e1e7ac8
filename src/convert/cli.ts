/** `deno task convert SOURCE TARGET`: flags and a progress bar around convertCheckpoint(). */
import { parseArgs } from "@std/cli";
import * as v from "valibot";
import { messageOf } from "../errors.ts";
import { convertCheckpoint, RecipeSchema } from "./convert.ts";
import { progressPrinter } from "./progress.ts";

const USAGE = `usage: deno task convert SOURCE TARGET [options]

  SOURCE            folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json)
  TARGET            folder of the bundle to write
  --dtype q8|fp32   how the large matrices are stored (default q8)
  --name NAME       name of the model (default: the folder's)
  --recipe FILE     JSON with name, addBos, defaults, samplePrompts
  --force           replace a bundle that stands at TARGET
`;

/** Runs the command and returns its exit status. */
export async function main(args: string[]): Promise<number> {
  const flags = parseArgs(args, {
    string: ["dtype", "name", "recipe"],
    boolean: ["force", "help"],
    default: { dtype: "q8" },
    unknown: (flag: string) => {
      if (!flag.startsWith("-")) return true;
      throw new TypeError(`unknown option ${flag}`);
    },
  });
  const [source, target] = flags._.map(String);
  if (flags.help) {
    console.log(USAGE);
    return 0;
  }
  if (source === undefined || target === undefined || flags._.length > 2) {
    console.error(USAGE);
    return 2;
  }
  if (flags.dtype !== "q8" && flags.dtype !== "fp32") {
    throw new TypeError(`--dtype must be q8 or fp32, not ${flags.dtype}`);
  }
  const recipe = flags.recipe === undefined
    ? undefined
    : v.parse(RecipeSchema, JSON.parse(await Deno.readTextFile(flags.recipe)));

  // Ctrl-C ends the conversion the way an error would: without leaving a half bundle.
  const abort = new AbortController();
  const interrupt = () => abort.abort(new Error("interrupted"));
  Deno.addSignalListener("SIGINT", interrupt);
  const progress = progressPrinter(Deno.stderr, { terminal: Deno.stderr.isTerminal() });
  try {
    const manifest = await convertCheckpoint({
      source,
      target,
      dtype: flags.dtype,
      name: flags.name,
      recipe,
      force: flags.force,
      signal: abort.signal,
      onProgress: progress.update,
    });
    progress.end();
    console.log(`${manifest.name} (${manifest.dtype}) is in ${target}`);
    return 0;
  } finally {
    progress.end();
    Deno.removeSignalListener("SIGINT", interrupt);
  }
}

if (import.meta.main) {
  try {
    Deno.exitCode = await main(Deno.args);
  } catch (error) {
    console.error(`convert: ${messageOf(error)}`);
    Deno.exitCode = 1;
  }
}
