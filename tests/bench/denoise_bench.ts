/**
 * Speed of one generation, variants interleaved in one run, medians with spread: `deno task bench`.
 *
 * The variants are CPU backends and thread counts; every round runs each of them once, so that a noisy machine hurts all
 * alike.
 */
import { parseArgs } from "node:util";
import { type Engine, loadEngine } from "../../src/mod.ts";
import { TINY } from "../support/tiny.ts";

const PROMPT = "/**\n * Checks whether a value is a string.\n */\nexport function isString(";

const { values } = parseArgs({
  args: Deno.args,
  options: { rounds: { type: "string", default: "15" } },
});
const rounds = Number(values.rounds);
const variants = [
  { backend: "wasm", threads: 1 },
  { backend: "wasm", threads: 2 },
  { backend: "native", threads: 1 },
  { backend: "native", threads: 2 },
] as const;

const engines: { name: string; engine: Engine; perPass: number[]; first: number[] }[] = [];
for (const variant of variants) {
  const engine = await loadEngine(TINY, variant);
  engines.push({
    name: `${variant.backend}, ${variant.threads} threads`,
    engine,
    perPass: [],
    first: [],
  });
}
for (let round = -2; round < rounds; round++) { // two rounds to warm up
  for (const { engine, perPass, first } of engines) {
    const { usage, timings } = await engine.generate(PROMPT, {
      maxTokens: 48,
      blockLength: 16,
      unmasking: "low_confidence_static",
    });
    if (round < 0) continue;
    perPass.push((timings.totalMs - timings.queueMs) / usage.forwardPasses);
    first.push(timings.firstFrameMs);
  }
}
const quantile = (list: number[], q: number) =>
  [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) * q)].toFixed(1);
console.log(`${rounds} rounds, ms: median (10 % – 90 %)`);
for (const { name, engine, perPass, first } of engines) {
  const row = (list: number[]) =>
    `${quantile(list, 0.5)} (${quantile(list, 0.1)} – ${quantile(list, 0.9)})`;
  console.log(
    `${name.padEnd(18)} forward pass ${row(perPass).padEnd(22)} first frame ${row(first)}`,
  );
  await engine.close();
}
