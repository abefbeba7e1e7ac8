/**
 * A ModelSession without weights. What it predicts at a position is a pure function of what a block-causal model may see
 * there: the ids of its own and of earlier blocks, and the position. So cached and uncached runs must agree.
 */
import type { Manifest } from "../../src/manifest.ts";
import type { Candidates } from "../../src/sampler.ts";
import type { ForwardInput, ModelSession } from "../../src/session.ts";

/** A manifest for the byte tokenizer: 256 bytes behind 16 special ids. */
export function testManifest(changes: Partial<Manifest> = {}): Manifest {
  const file = (path: string) => ({ path, bytes: 1, sha256: "0".repeat(64) });
  return {
    format: "cinnabar-bundle",
    version: 1,
    name: "scripted",
    architecture: {
      layers: 1,
      hiddenSize: 32,
      heads: 2,
      kvHeads: 1,
      headDim: 16,
      ffnSize: 32,
      vocabSize: 272,
      contextLength: 512,
      normEpsilon: 1e-6,
      ropeTheta: 10000,
      qkNorm: true,
      qkvBias: false,
      tiedEmbeddings: true,
    },
    dtype: "fp32",
    tokens: { bos: 0, mask: 2, eos: [0], pad: 1 },
    noise: "mask",
    attention: "block-causal",
    cache: "block",
    logitShift: 0,
    blockLength: { default: 16, trained: [4, 8, 16, 32] },
    infill: { prefix: 5, suffix: 6, middle: 7 },
    defaults: {},
    samplePrompts: ["function isString(", "const sum = "],
    files: {
      weights: file("weights.safetensors"),
      tokenizer: file("tokenizer.json"),
      tokenizerConfig: file("tokenizer_config.json"),
    },
    ...changes,
  };
}

/** The logits of the whole vocabulary at `position`, given the ids that it may see. */
export type Script = (visible: readonly number[], position: number) => Float32Array;

/** A scripted session and what a test may look at. */
export interface ScriptedSession extends ModelSession {
  /** Forward passes so far. */
  readonly calls: number;
  /** Slots that hold cached ids now. */
  liveSlots(): number[];
  /** Makes the next pass fail. */
  failNext(error: Error): void;
}

/**
 * @param options.delayMs how long a pass takes
 * @param options.script replaces the hash below
 */
export function scriptedSession(options: {
  readonly manifest?: Manifest;
  readonly candidates?: number;
  readonly delayMs?: number;
  readonly batch?: number;
  readonly script?: Script;
} = {}): ScriptedSession {
  const manifest = options.manifest ?? testManifest();
  const { vocabSize } = manifest.architecture;
  const width = Math.min(options.candidates ?? 64, vocabSize);
  const script = options.script ?? hashScript(manifest);
  const cached = new Map<number, number[]>();
  let calls = 0;
  let failure: Error | undefined;

  function answer(input: ForwardInput): Candidates {
    const { slot, start, ids, blockLength, keep, rows } = input;
    const past = cached.get(slot) ?? [];
    if (start > past.length) {
      throw new RangeError(`slot ${slot} holds ${past.length}, not ${start}`);
    }
    const all = [...past.slice(0, start), ...ids];
    if (keep > 0) cached.set(slot, all.slice(0, start + keep));
    return toCandidates(
      rows.map((row) => {
        const position = start + row;
        const end = (Math.floor(position / blockLength) + 1) * blockLength;
        return script(all.slice(0, end), position);
      }),
      width,
    );
  }

  return {
    description: "scripted",
    backend: "wasm",
    batch: options.batch ?? 4,
    get calls() {
      return calls;
    },
    liveSlots: () => [...cached.keys()],
    failNext: (error) => void (failure = error),
    async forward(inputs) {
      calls++;
      await new Promise((resolve) => setTimeout(resolve, options.delayMs ?? 0));
      if (failure !== undefined) {
        const error = failure;
        failure = undefined;
        throw error;
      }
      return inputs.map(answer);
    },
    release: (slot) => Promise.resolve(void cached.delete(slot)),
    close: () => Promise.resolve(cached.clear()),
  };
}

/**
 * Printable bytes, sometimes a two-byte character, rarely an end: every logit is a hash of (visible ids, position, token),
 * with one token made likely so that confidences spread from nearly 0 to nearly 1.
 */
function hashScript(manifest: Manifest): Script {
  const { vocabSize } = manifest.architecture;
  return (visible, position) => {
    let state = 2166136261 ^ position;
    for (const id of visible) state = Math.imul(state ^ id, 16777619) >>> 0;
    const next = () => {
      state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
      return ((state ^ (state >>> 13)) >>> 0) / 4294967296;
    };
    const logits = new Float32Array(vocabSize).map(() => next() * 2);
    const kind = next();
    const favourite = kind < 0.02
      ? manifest.tokens.eos[0]
      : kind < 0.1
      ? 16 + 0xc3 + Math.floor(next() * 2) // first byte of a two-byte character
      : kind < 0.18
      ? 16 + 0x80 + Math.floor(next() * 64) // a continuation byte, alone or not
      : 16 + 32 + Math.floor(next() * 95);
    logits[favourite] += next() * 12;
    logits[manifest.tokens.mask] = 20 * next(); // must never be taken, however likely
    return logits;
  };
}

function toCandidates(rows: readonly Float32Array[], width: number): Candidates {
  const logits = new Float32Array(rows.length * width);
  const ids = new Int32Array(rows.length * width);
  const logSumExp = new Float32Array(rows.length);
  const entropy = new Float32Array(rows.length);
  rows.forEach((row, n) => {
    const order = [...row.keys()].sort((a, b) => row[b] - row[a] || a - b).slice(0, width);
    order.forEach((id, k) => {
      ids[n * width + k] = id;
      logits[n * width + k] = row[id];
    });
    const most = row[order[0]];
    const lse = most + Math.log(row.reduce((sum, v) => sum + Math.exp(v - most), 0));
    logSumExp[n] = lse;
    entropy[n] = row.reduce((sum, v) => sum - Math.exp(v - lse) * (v - lse), 0);
  });
  return { width, logits, ids, logSumExp, entropy };
}
