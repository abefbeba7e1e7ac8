/**
 * A model without weights: what it predicts is a script, a pure function of what a block-causal model may see. The cached
 * ids of each slot are kept for real, so a cached run and a naive one agree exactly when the engine feeds both rightly.
 */
import type { Manifest } from "../../src/manifest.ts";
import type { Candidates } from "../../src/sampler.ts";
import type { ForwardInput } from "../../src/forward.ts";
import type { ModelSession } from "../../src/session.ts";

/** Specials of the scripted vocabulary; bytes follow from id 16 on (see byte_tokenizer.ts). */
export const SCRIPTED_TOKENS = { pad: 0, mask: 1, eos: 2, prefix: 3, suffix: 4, middle: 5 };
const FIRST_BYTE = 16;
/** 16 specials and 256 bytes. */
export const SCRIPTED_VOCABULARY = FIRST_BYTE + 256;

/**
 * Logits over the whole vocabulary for one position.
 *
 * @param visibleIds ids from position 0 to the end of the position's own block, masks included
 * @param position on the canvas
 */
export type Script = (visibleIds: readonly number[], position: number) => ArrayLike<number>;

export interface ScriptedOptions {
  readonly vocabSize?: number;
  /** Candidates of a row, at most `vocabSize`. */
  readonly candidates?: number;
  /** Latency of a pass. Even 0 gives the event loop a turn. */
  readonly delayMs?: number;
  /** Sequences of one pass. */
  readonly batch?: number;
  readonly script?: Script;
}

/** A session that counts what it is asked. */
export interface ScriptedSession extends ModelSession {
  /** Forward passes so far. */
  readonly calls: number;
  /** Rows whose candidates were asked so far. */
  readonly rows: number;
  readonly closed: boolean;
  /** Slots that hold cached ids now. */
  liveSlots(): number[];
  /** Cached ids of a slot. */
  cachedIds(slot: number): readonly number[];
}

/** Opens a scripted session; without a script it writes printable ASCII with confidences all over (0, 1). */
export function scriptedSession(options: ScriptedOptions = {}): ScriptedSession {
  const { vocabSize = SCRIPTED_VOCABULARY, candidates = 64, delayMs = 0, batch = 4 } = options;
  const script = options.script ?? hashedScript(vocabSize);
  const cache = new Map<number, number[]>();
  let calls = 0, rows = 0, running = false, closed = false;

  /** Logits of the asked rows over the cache in `slot`, which keeps what the input says. */
  const rowsOf = (input: ForwardInput, slot: number, ids: readonly number[]) => {
    const { start, blockLength, blockOffset = 0, keep, cached = start } = input;
    const held = cache.get(slot) ?? [];
    check(input, vocabSize, held.length);
    const canvas = held.slice(0, cached);
    ids.forEach((id, i) => canvas[start + i] = id);
    const logits = input.rows.map((row) => {
      const position = start + row;
      const block = Math.floor((position + blockOffset) / blockLength);
      const end = Number.isFinite(blockLength) ? (block + 1) * blockLength - blockOffset : Infinity;
      return script(canvas.slice(0, end), position);
    });
    if (keep > 0) {
      ids.slice(0, keep).forEach((id, i) => held[start + i] = id);
      cache.set(slot, held);
    }
    return logits;
  };

  const one = (input: ForwardInput): Candidates => {
    const { slot, ids, guidance, watch = [] } = input;
    const conditional = rowsOf(input, slot, ids);
    const unconditional = guidance && rowsOf(input, -1 - slot, guidance.ids);
    const logits = conditional.map((row, n) =>
      unconditional === undefined
        ? row
        : Array.from(row, (l, id) => l + guidance!.scale * (l - unconditional[n][id]))
    );
    rows += input.rows.length;
    const watched = Float32Array.from(logits.flatMap((row) => watch.map((id) => row[id])));
    return { ...candidatesOf(logits, candidates), watched };
  };

  return {
    description: "a script",
    backend: "wasm",
    batch,
    get calls() {
      return calls;
    },
    get rows() {
      return rows;
    },
    get closed() {
      return closed;
    },
    liveSlots: () => [...cache.keys()].filter((slot) => slot >= 0),
    cachedIds: (slot) => cache.get(slot) ?? [],
    async forward(inputs) {
      if (closed) throw new Error("forward() on a closed session");
      if (running) throw new Error("forward() while another pass runs");
      if (inputs.length === 0 || inputs.length > batch) {
        throw new RangeError(`${inputs.length} inputs`);
      }
      if (new Set(inputs.map(({ slot }) => slot)).size < inputs.length) {
        throw new RangeError("one slot twice in a pass");
      }
      running = true;
      calls++;
      try {
        await new Promise((resolve) => setTimeout(resolve, delayMs));
        return inputs.map(one);
      } finally {
        running = false;
      }
    },
    release(slot) {
      cache.delete(slot);
      cache.delete(-1 - slot);
      return Promise.resolve();
    },
    close() {
      closed = true;
      return Promise.resolve();
    },
  };
}

/** What a real session checks, and that the slot holds what the input wants to see. */
function check(input: ForwardInput, vocabSize: number, held: number): void {
  const { start, ids, keep, rows, cached = start } = input;
  if (cached > held) throw new RangeError(`wants ${cached} cached ids of ${held}`);
  if (ids.length === 0 || start > cached && cached > 0) {
    throw new RangeError(`${ids.length} ids at ${start} behind ${cached}`);
  }
  if (keep < 0 || keep > ids.length) throw new RangeError(`cannot keep ${keep} of ${ids.length}`);
  if (ids.some((id) => !(id >= 0 && id < vocabSize))) throw new RangeError("alien token id");
  if (rows.some((row) => !(row >= 0 && row < ids.length))) throw new RangeError("alien row");
}

/** What the candidate head of the graph computes from whole rows of logits. */
export function candidatesOf(rows: readonly ArrayLike<number>[], width: number): Candidates {
  const result = {
    width,
    logits: new Float32Array(rows.length * width),
    ids: new Int32Array(rows.length * width),
    logSumExp: new Float32Array(rows.length),
    entropy: new Float32Array(rows.length),
    watched: new Float32Array(0),
  };
  rows.forEach((row, n) => {
    const logits = Array.from(row);
    const best = Math.max(...logits);
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - best), 0);
    const logSumExp = best + Math.log(sum);
    result.logSumExp[n] = logSumExp;
    result.entropy[n] = logits.reduce((total, logit) => {
      const p = Math.exp(logit - logSumExp);
      return p > 0 ? total - p * (logit - logSumExp) : total;
    }, 0);
    logits.map((logit, id) => ({ logit, id })).sort((a, b) => b.logit - a.logit || a.id - b.id)
      .slice(0, width).forEach(({ logit, id }, k) => {
        result.logits[n * width + k] = logit;
        result.ids[n * width + k] = id;
      });
  });
  return result;
}

/**
 * The default script: a hash of all that is visible picks one printable favourite and how sure it is; the rest is noise.
 *
 * @param eosChance how often the favourite is the end-of-text token instead
 */
export function hashedScript(vocabSize = SCRIPTED_VOCABULARY, eosChance = 0): Script {
  return (visibleIds, position) => {
    let state = 2166136261 ^ position;
    for (const id of visibleIds) state = Math.imul(state ^ id, 16777619); // FNV-1a
    const random = () => { // mulberry32
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const favourite = random() < eosChance
      ? SCRIPTED_TOKENS.eos
      : FIRST_BYTE + 0x20 + Math.floor(random() * 95);
    const strength = 4 + 8 * random();
    const logits = new Float32Array(vocabSize);
    for (let id = 0; id < vocabSize; id++) logits[id] = id < FIRST_BYTE ? -30 : random();
    logits[favourite] = strength;
    return logits;
  };
}

/** A script that spells out `text` in UTF-8 from position `from` on, then ends; each token with logit `sureness`. */
export function spellingScript(text: string, from: number, sureness = 12): Script {
  const bytes = new TextEncoder().encode(text);
  return (_, position) => {
    const at = position - from;
    const id = at >= 0 && at < bytes.length ? FIRST_BYTE + bytes[at] : SCRIPTED_TOKENS.eos;
    const logits = new Float32Array(SCRIPTED_VOCABULARY);
    logits[id] = sureness;
    return logits;
  };
}

/** A manifest that fits the scripted session. */
export function scriptedManifest(options: {
  readonly contextLength?: number;
  readonly blockLength?: Manifest["blockLength"];
  readonly bos?: number;
  readonly infill?: boolean;
  readonly vocabSize?: number;
  /** Facts of another kind of model. */
  readonly facts?: Partial<Manifest>;
} = {}): Manifest {
  const { prefix, suffix, middle, mask, eos, pad } = SCRIPTED_TOKENS;
  const file = { bytes: 1, sha256: "0".repeat(64) };
  return {
    format: "cinnabar-bundle",
    version: 1,
    name: "scripted",
    architecture: {
      layers: 1,
      hiddenSize: 8,
      heads: 2,
      kvHeads: 1,
      headDim: 4,
      ffnSize: 8,
      vocabSize: options.vocabSize ?? SCRIPTED_VOCABULARY,
      contextLength: options.contextLength ?? 512,
      normEpsilon: 1e-6,
      ropeTheta: 10000,
      qkNorm: true,
      tiedEmbeddings: true,
    },
    dtype: "fp32",
    tokens: { mask, eos: [eos], pad, ...options.bos === undefined ? {} : { bos: options.bos } },
    noise: "mask",
    attention: "block-causal",
    cache: "block",
    logitShift: 0,
    blockGrid: "absolute",
    blockStart: "denoised",
    blockLength: options.blockLength ?? { default: 8, trained: [1, 2, 4, 8, 16, 32] },
    ...options.infill ? { infill: { prefix, suffix, middle } } : {},
    defaults: {},
    samplePrompts: ["Once upon a time"],
    ...options.facts,
    files: {
      weights: { path: "weights.safetensors", ...file },
      tokenizer: { path: "tokenizer.json", ...file },
      tokenizerConfig: { path: "tokenizer_config.json", ...file },
    },
  };
}
