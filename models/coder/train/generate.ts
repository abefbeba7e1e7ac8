// Writes with a converted bundle through the engine, infilling included, and prints it:
//   deno run -A models/coder/train/generate.ts BUNDLE_DIR SAMPLES_JSON [same]
// SAMPLES_JSON is what samples.py wrote; with `same` (an fp32 bundle) the engine must write what PyTorch wrote.
import { loadEngine } from "../../../src/mod.ts";

const [bundle, file, mode] = Deno.args;
if (bundle === undefined || file === undefined || (mode !== undefined && mode !== "same")) {
  console.error("usage: generate.ts BUNDLE_DIR SAMPLES_JSON [same]");
  Deno.exit(2);
}
interface Case {
  readonly prompt: string;
  readonly suffix?: string;
  readonly text: string;
  readonly tokens: number;
}
const { blockLength, confidenceThreshold, cases } = JSON.parse(await Deno.readTextFile(file));
await using engine = await loadEngine(bundle);
let differ = 0;
for (const { prompt, suffix, text, tokens } of cases as Case[]) {
  const end = await engine.generate(prompt, {
    suffix,
    maxTokens: Math.max(1, tokens),
    temperature: 0,
    blockLength,
    confidenceThreshold,
  });
  console.log(`${JSON.stringify(prompt)} -> ${JSON.stringify(end.text)} [${JSON.stringify(end.usage)}]`);
  if (typeof end.text !== "string") throw new Error("the engine returned no text");
  if (mode === "same" && end.text !== text) {
    console.error(`PyTorch wrote ${JSON.stringify(text)}`);
    differ += 1;
  }
}
console.log(`${cases.length} texts, ${mode === "same" ? `${differ} differ from PyTorch` : "not compared"}`);
if (differ > 0) Deno.exit(1);
