/**
 * What the storage forms cost in accuracy, against the float32 checkpoint, at masked positions of held-out text:
 * `deno task agreement [--dtypes q8,q4] [--backend wasm]`. The figures in the model cards come from here.
 */
import { parseArgs } from "node:util";
import { type BackendName, BACKENDS } from "../../src/backend/backend.ts";
import type { Bundle } from "../../src/loader.ts";
import { type Dtype, DTYPES } from "../../src/manifest.ts";
import { randomFrom } from "../../src/random.ts";
import type { ForwardInput } from "../../src/forward.ts";
import { openSession } from "../../src/session.ts";
import { loadTokenizer } from "../../src/tokenizer.ts";
import { convertedBundle } from "../support/checkpoint.ts";
import { floatBundle, TINY, unpackCheckpoint } from "../support/tiny.ts";
import { wholeLogits } from "../support/whole_logits.ts";

const BLOCK_LENGTH = 16;

/** One forward pass over held-out text, and the tokens that stand at its masked rows. */
export interface HeldoutPass {
  readonly input: ForwardInput;
  readonly truth: readonly number[];
}

/** How one bundle's predictions compare with the reference's. */
export interface Agreement {
  readonly positions: number;
  /** Share of positions with the same most likely token. */
  readonly share: number;
  /** Mean Kullback-Leibler divergence of the bundle from the reference, in nats. */
  readonly divergence: number;
  /** Mean cross-entropy of the true tokens, in nats. */
  readonly crossEntropy: number;
}

/** Held-out documents, half of the positions of each block masked behind the clean blocks before it. */
export async function heldoutPasses(bundle: Bundle, documents: number): Promise<HeldoutPass[]> {
  const codec = loadTokenizer(bundle.tokenizerJson, bundle.tokenizerConfig);
  const heldout = JSON.parse(await Deno.readTextFile(new URL("heldout.json", TINY)));
  const texts: string[] = heldout.documents.map((d: { text: string }) => d.text);
  const { mask, bos } = bundle.manifest.tokens;
  return texts.slice(0, documents).flatMap((text, index) => {
    const ids = [...(bos === undefined ? [] : [bos]), ...codec.encode(text)].slice(0, 256);
    const random = randomFrom(index);
    const passes: HeldoutPass[] = [];
    for (let start = 0; start + BLOCK_LENGTH <= ids.length; start += BLOCK_LENGTH) {
      const block = ids.slice(start, start + BLOCK_LENGTH);
      const masked = block.map((_, i) => i).filter(() => random() < 0.5);
      if (masked.length === 0) continue;
      passes.push({
        truth: masked.map((i) => block[i]),
        input: {
          slot: 0,
          start: 0,
          ids: [...ids.slice(0, start), ...block.map((id, i) => masked.includes(i) ? mask : id)],
          blockLength: BLOCK_LENGTH,
          keep: 0,
          rows: masked.map((i) => start + i),
        },
      });
    }
    return passes;
  });
}

/** Log-probabilities [vocabSize] at every masked row of `passes`, in order. */
export async function logProbabilities(
  { manifest, weights }: Bundle,
  passes: readonly HeldoutPass[],
  backend: BackendName,
): Promise<Float32Array[]> {
  const { vocabSize } = manifest.architecture;
  const session = await openSession({
    manifest,
    weights,
    backends: [backend],
    options: { threads: 2, softwareAdapter: true },
  });
  const rows: Float32Array[] = [];
  try {
    for (const { input } of passes) {
      const found = await wholeLogits(session, input, vocabSize);
      found.rows.forEach((row, n) => rows.push(row.map((logit) => logit - found.logSumExp[n])));
    }
  } finally {
    await session.close();
  }
  return rows;
}

/** Compares log-probabilities row by row. */
export function compare(
  reference: readonly Float32Array[],
  other: readonly Float32Array[],
  truth: readonly number[],
): Agreement {
  let same = 0, divergence = 0, crossEntropy = 0;
  const best = (row: Float32Array) => row.reduce((top, x, id) => x > row[top] ? id : top, 0);
  reference.forEach((p, n) => {
    const q = other[n];
    if (best(p) === best(q)) same++;
    p.forEach((log, id) => divergence += Math.exp(log) * (log - q[id]));
    crossEntropy -= q[truth[n]];
  });
  const positions = reference.length;
  return {
    positions,
    share: same / positions,
    divergence: divergence / positions,
    crossEntropy: crossEntropy / positions,
  };
}

/** A table's row. */
export function tableRow(name: string, { share, divergence, crossEntropy }: Agreement): string {
  return `| ${name.padEnd(24)} | ${(share * 100).toFixed(2).padStart(6)} % | ` +
    `${divergence.toFixed(6)} | ${crossEntropy.toFixed(4)} |`;
}

/** The agreement of the trained model's bundles in these forms, on the first so many held-out documents. */
export async function agreement(
  dtypes: readonly Dtype[],
  options: { readonly backend: BackendName; readonly documents: number },
): Promise<Map<Dtype, Agreement>> {
  const exact = await floatBundle();
  const passes = await heldoutPasses(exact, options.documents);
  const truth = passes.flatMap((pass) => pass.truth);
  const reference = await logProbabilities(exact, passes, "wasm");
  const found = new Map<Dtype, Agreement>();
  for (const dtype of dtypes) {
    const bundle = await convertedBundle(unpackCheckpoint, dtype);
    const rows = await logProbabilities(bundle, passes, options.backend);
    found.set(dtype, compare(reference, rows, truth));
  }
  return found;
}

if (import.meta.main) {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      backend: { type: "string", default: "wasm" },
      dtypes: { type: "string", default: DTYPES.join() },
    },
  });
  const backend = BACKENDS.find((name) => name === values.backend);
  if (backend === undefined) throw new Error(`--backend must be one of ${BACKENDS.join(", ")}`);
  const dtypes = values.dtypes.split(",").map((asked) => {
    const dtype = DTYPES.find((name) => name === asked);
    if (dtype === undefined) throw new Error(`--dtypes must be of ${DTYPES.join(", ")}`);
    return dtype;
  });
  console.log(`| ${backend} | same top token as fp32 | mean KL, nats | cross-entropy, nats |`);
  let positions = 0;
  for (const [dtype, found] of await agreement(dtypes, { backend, documents: Infinity })) {
    console.log(tableRow(dtype, found));
    positions = found.positions;
  }
  console.log(`${positions} masked held-out positions, block length ${BLOCK_LENGTH}`);
}
