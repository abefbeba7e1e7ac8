/**
 * Candidates for rounding to 4 bits, measured on the trained model: each is replayed as float32 weights.
 * `deno run -A --lock=tests/deno.lock tests/bench/rounding.ts [--only NAME,…]`; with `--exceptions NAME`, that
 * rounding with some matrices at q8 instead (`--tables LABEL;…` for some of those rows).
 */
import { parseArgs } from "node:util";
import { quantize } from "../../src/convert/quantize.ts";
import { dequantize4, dequantize8 } from "../../src/graph/storage.ts";
import { quantize4 } from "../../src/convert/quantize_q4.ts";
import type { Bundle } from "../../src/loader.ts";
import { encodeHeader, parseSafetensors } from "../../src/safetensors.ts";
import { floatBundle } from "../support/tiny.ts";
import { compare, heldoutPasses, logProbabilities, tableRow } from "./agreement.ts";

const BLOCK = 32;

/** Rounds one block in place: the weights become what the stored form would give back. */
type Rounding = (block: Float32Array) => void;

const clamp = (x: number, low: number, high: number) => x < low ? low : x > high ? high : x;
const even = (x: number) => (x + 1.5 * 2 ** 52) - 1.5 * 2 ** 52;

const extreme = (block: Float32Array) =>
  block.reduce((most, w) => Math.abs(w) > Math.abs(most) ? w : most, 0);

/** Symmetric levels low … 7 at a scale. */
function symmetric(block: Float32Array, scale: number, low: number): Float32Array {
  const s = Math.fround(scale);
  return block.map((w) => s === 0 ? 0 : clamp(even(w / s), low, 7) * s);
}

const squares = (a: Float32Array, b: Float32Array) =>
  a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0);

function best(block: Float32Array, tries: Iterable<Float32Array>): void {
  let least = Infinity, winner = block;
  for (const tried of tries) {
    const error = squares(block, tried);
    if (error < least) [least, winner] = [error, tried];
  }
  block.set(winner);
}

/** Levels at a scale, then the scale that fits those levels best, a few times over. */
function* refined(block: Float32Array, scale: number, low: number, rounds: number) {
  let s = Math.fround(scale);
  for (let round = 0; round <= rounds && s !== 0; round++) {
    yield symmetric(block, s, low);
    let wq = 0, qq = 0;
    for (const w of block) {
      const q = clamp(even(w / s), low, 7);
      wq += w * q;
      qq += q * q;
    }
    if (qq === 0) return;
    s = Math.fround(wq / qq);
  }
}

function asymmetric(block: Float32Array, scale: number, zero: number): Float32Array {
  const s = Math.fround(scale);
  return block.map((w) => s === 0 ? 0 : (clamp(even(w / s + zero), 0, 15) - zero) * s);
}

function range(block: Float32Array): [number, number] {
  return [Math.min(0, ...block), Math.max(0, ...block)];
}

function hqq(block: Float32Array, beta: number, roundZero: boolean): void {
  const [low, high] = [Math.min(...block), Math.max(...block)];
  if (high === low) return;
  const scale = 15 / (high - low);
  let zero = -low * scale, penalty = beta, bestError = Infinity, kept = zero;
  for (let round = 0; round < 20; round++) {
    const quantized = block.map((w) => clamp(even(w * scale + zero), 0, 15));
    const back = quantized.map((q) => (q - zero) / scale);
    const error = block.reduce((sum, w, i) => sum + Math.abs(w - back[i]), 0);
    if (error >= bestError) break;
    [bestError, kept] = [error, zero];
    zero = block.reduce((sum, w, i) => {
      const e = w - back[i];
      const shrunk = Math.sign(e) * Math.max(0, Math.abs(e) - Math.abs(e) ** (0.7 - 1) / penalty);
      return sum + quantized[i] - (w - (Number.isFinite(shrunk) ? shrunk : 0)) * scale;
    }, 0) / block.length;
    penalty *= 1.01;
  }
  if (roundZero) kept = clamp(even(kept), 0, 15);
  block.set(asymmetric(block, 1 / scale, kept));
}

function* grid(from: number, to: number, steps: number) {
  for (let i = 0; i <= steps; i++) yield from + (to - from) * i / steps;
}

const ROUNDINGS: Readonly<Record<string, Rounding>> = {
  "q8": (b) => {
    const { values, scales } = quantize(b);
    b.set(dequantize8(values, scales));
  },
  "rtn7": (b) => b.set(symmetric(b, Math.abs(extreme(b)) / 7, -7)),
  "rtn8": (b) => b.set(symmetric(b, -extreme(b) / 8, -8)),
  "search7": (b) => {
    const most = Math.abs(extreme(b)) / 7;
    best(b, [...grid(0.6, 1.1, 50)].map((f) => symmetric(b, most * f, -7)));
  },
  "search8": (b) => {
    const most = -extreme(b) / 8;
    best(b, [...grid(0.6, 1.2, 60)].map((f) => symmetric(b, most * f, -8)));
  },
  "search8 both": (b) => {
    const most = -extreme(b) / 8;
    best(
      b,
      [...grid(0.6, 1.2, 60)].flatMap((f) => [
        symmetric(b, most * f, -8),
        symmetric(b, -most * f, -8),
      ]),
    );
  },
  "search8 both refined": (b) => {
    const most = -extreme(b) / 8;
    best(
      b,
      [...grid(0.6, 1.2, 30)].flatMap((f) => [
        ...refined(b, most * f, -8, 3),
        ...refined(b, -most * f, -8, 3),
      ]),
    );
  },
  "minmax zero": (b) => {
    const [low, high] = range(b);
    const s = (high - low) / 15;
    b.set(asymmetric(b, s, s === 0 ? 0 : clamp(even(-low / s), 0, 15)));
  },
  "search zero": (b) => {
    const [low, high] = range(b);
    best(
      b,
      [...grid(0.6, 1.1, 50)].flatMap((f) => {
        const s = (high - low) / 15 * f;
        if (s === 0) return [b.slice()];
        const z = even(-low / s - (1 / f - 1) * 7.5);
        return [z - 1, z, z + 1].map((zero) => asymmetric(b, s, clamp(zero, 0, 15)));
      }),
    );
  },
  "search zero fitted": (b) => {
    const { values, scales, zeros } = quantize4(Float32Array.of(...b, ...b)); // it takes pairs
    b.set(dequantize4(values, scales, zeros).subarray(0, BLOCK));
  },
  "hqq float zero": (b) => hqq(b, 10, false),
  "hqq": (b) => hqq(b, 10, true),
  "hqq beta 1e4 float zero": (b) => hqq(b, 1e4, false),
  "hqq beta 1e4": (b) => hqq(b, 1e4, true),
};

/** A float32 bundle whose matrices went through the rounding that `pick` names for them. */
export function replay(
  bundle: Bundle,
  pick: (name: string) => string | undefined,
): [Bundle, number] {
  const weights = bundle.weights.slice();
  let error = 0;
  for (const [name, info] of parseSafetensors(weights, "weights").tensors) {
    const rounding = info.shape.length === 2 ? pick(name) : undefined;
    if (rounding === undefined) continue;
    const values = new Float32Array(weights.buffer, info.offset, info.length / 4);
    const before = values.slice();
    for (let at = 0; at < values.length; at += BLOCK) {
      ROUNDINGS[rounding](values.subarray(at, at + BLOCK));
    }
    error += squares(before, values);
  }
  return [{ ...bundle, weights }, error];
}

/** The bundle with the embedding's matrix a second time, as a head of its own. */
function untied(bundle: Bundle): Bundle {
  const { tensors } = parseSafetensors(bundle.weights, "weights");
  const entries = [...tensors].map(([name, info]) => ({ ...info, name, from: info.offset }));
  const embed = tensors.get("embed.weight")!;
  entries.push({ ...embed, name: "head.weight", from: embed.offset });
  const header = encodeHeader(entries);
  const weights = new Uint8Array(entries.reduce((sum, e) => sum + e.length, header.length));
  weights.set(header);
  let at = header.length;
  for (const { from, length } of entries) {
    weights.set(bundle.weights.subarray(from, from + length), at);
    at += length;
  }
  const architecture = { ...bundle.manifest.architecture, tiedEmbeddings: false };
  return { ...bundle, weights, manifest: { ...bundle.manifest, architecture } };
}

const { values: flags } = parseArgs({
  args: Deno.args,
  options: {
    only: { type: "string" },
    exceptions: { type: "string" },
    tables: { type: "string", default: "" },
  },
});
const names = flags.exceptions === undefined ? flags.only?.split(",") : [flags.exceptions];
for (const name of names ?? []) {
  if (!Object.hasOwn(ROUNDINGS, name)) {
    throw new TypeError(`no rounding ${name}: ${Object.keys(ROUNDINGS).join(", ")}`);
  }
}
const exact = await floatBundle();
const passes = await heldoutPasses(exact, Infinity);
const truth = passes.flatMap((pass) => pass.truth);
const reference = await logProbabilities(exact, passes, "wasm");
const measure = async (label: string, pick: (name: string) => string | undefined) => {
  const [bundle, error] = replay(label.includes("untied") ? untied(exact) : exact, pick);
  const rows = await logProbabilities(bundle, passes, "wasm");
  console.log(tableRow(label, compare(reference, rows, truth)), `squares ${error.toFixed(3)}`);
};
if (flags.exceptions === undefined) {
  for (const name of names ?? Object.keys(ROUNDINGS)) {
    await measure(name, () => name);
  }
} else {
  const base = flags.exceptions;
  const tables: Record<string, RegExp> = {
    "embed": /^embed/,
    "layer 0": /^layers\.0\./,
    "layer 5": /^layers\.5\./,
    "layers 0, 5": /^layers\.[05]\./,
    "embed, layer 0": /^embed|^layers\.0\./,
    "embed, layers 0, 5": /^embed|^layers\.[05]\./,
    "layer 2 (control)": /^layers\.2\./,
    "v": /\.v\.weight/,
    "o": /\.o\.weight/,
    "down": /\.down\.weight/,
    "k": /\.k\.weight/,
    "embed, v": /^embed|\.v\.weight/,
    "embed, v, o": /^embed|\.[vo]\.weight/,
    "embed, v, layer 0": /^embed|\.v\.weight|^layers\.0\./,
    "embed, v, layers 0, 5": /^embed|\.v\.weight|^layers\.[05]\./,
    "embed, v, o, layer 0": /^embed|\.[vo]\.weight|^layers\.0\./,
    "untied, v, o: embed": /^embed|\.[vo]\.weight/,
    "untied, v, o: head": /^head|\.[vo]\.weight/,
    "untied, v, o: both": /^(embed|head)|\.[vo]\.weight/,
    "embed, v, o, layers 0, 5": /^embed|\.[vo]\.weight|^layers\.[05]\./,
  };
  for (const [label, pattern] of Object.entries(tables)) {
    if (flags.tables !== "" && !flags.tables.split(";").includes(label)) continue;
    await measure(`q8: ${label}`, (name) => pattern.test(name) ? "q8" : base);
  }
}
