/**
 * Bits per byte of a text under block diffusion; the only file here that knows the ModelSession.
 *
 * The bound is the one that block-diffusion models are trained on (BD3-LM, 2503.09573): a block with m maskable positions gets
 * n ~ U{1..m} masks, sees the clean blocks before it, and costs m x (mean cross-entropy of its masked tokens), which in
 * expectation is at least -ln p(block). A text is scored behind the model's opening token, its end token included; the end
 * tokens that fill its last block are paid for too.
 */
import type { BackendName, Bundle } from "../mod.ts";
import { EngineError, loadTokenizer } from "../mod.ts";
import { randomFrom } from "../random.ts";
import type { ForwardInput } from "../forward.ts";
import { type ModelSession, openSession } from "../session.ts";

/** What a text costs. */
export interface TextBits {
  /** One estimate for each draw of masks, in nats. */
  readonly nats: readonly number[];
  /** UTF-8 bytes of the text. */
  readonly bytes: number;
}

/** A text and the number that its masks are drawn from. */
export interface ScoredText {
  readonly text: string;
  readonly seed: number;
}

export interface Scorer {
  /** Texts that are best scored together. */
  readonly batch: number;
  score(texts: readonly ScoredText[], blockLength: number, draws: number): Promise<TextBits[]>;
  close(): Promise<void>;
}

/** Opens a model for scoring; it is asked for the logits of the tokens that stand in the text, whose probabilities are exact. */
export async function openScorer(
  { manifest, weights, tokenizerJson, tokenizerConfig }: Bundle,
  options: { readonly backends: readonly BackendName[]; readonly threads: number },
): Promise<Scorer> {
  if (manifest.attention !== "block-causal" || manifest.logitShift !== 0) {
    throw new EngineError(
      "invalid_request",
      "--suite bpb: the bound is of block-causal models whose logits are not shifted",
      { param: "suite" },
    );
  }
  const codec = loadTokenizer(tokenizerJson, tokenizerConfig);
  const { contextLength } = manifest.architecture;
  const session = await openSession({
    manifest,
    weights,
    backends: options.backends,
    options: { threads: options.threads, softwareAdapter: options.backends[0] === "webgpu" },
  });
  const { batch } = session;
  return {
    batch,
    async score(texts, blockLength, draws) {
      const room = Math.floor(contextLength / blockLength) * blockLength;
      const windows = texts.flatMap(({ text, seed }, owner) =>
        cutWindows(codec.encode(text), manifest.tokens, { room, blockLength })
          .map((window, i) => ({ ...window, owner, seed: mix(seed, i) }))
      );
      const nats = texts.map(() => new Array<number>(draws).fill(0));
      for (let i = 0; i < windows.length; i += batch) {
        const part = windows.slice(i, i + batch);
        const found = await scoreWindows(session, part, { blockLength, draws, ...manifest.tokens });
        part.forEach(({ owner }, w) => found[w].forEach((value, d) => nats[owner][d] += value));
      }
      const utf8 = new TextEncoder();
      return texts.map(({ text }, i) => ({ nats: nats[i], bytes: utf8.encode(text).length }));
    },
    close: () => session.close(),
  };
}

/** Whole blocks of clean ids, scored from a clean start. */
interface Window {
  readonly ids: readonly number[];
  /** 1 where `ids` opens with a token that is given. */
  readonly given: number;
}

function cutWindows(
  text: readonly number[],
  { bos, eos: [eos] }: { readonly bos?: number | undefined; readonly eos: readonly number[] },
  { room, blockLength }: { readonly room: number; readonly blockLength: number },
): Window[] {
  const opening = bos === undefined ? [] : [bos];
  const tokens = [...text, eos];
  const windows: Window[] = [];
  const step = room - opening.length;
  for (let at = 0; at < tokens.length; at += step) {
    const ids = [...opening, ...tokens.slice(at, at + step)];
    while (ids.length % blockLength !== 0) ids.push(eos);
    windows.push({ ids, given: opening.length });
  }
  return windows;
}

/** One block of one window with one draw of masks. */
interface Draw {
  readonly slot: number;
  readonly input: ForwardInput & { readonly watch: readonly number[] };
  /** Clean ids at `input.rows`. */
  readonly targets: readonly number[];
  /** What each target's cross-entropy counts. */
  readonly weight: number;
}

/** Nats of each window and draw. The windows go from block to block together, one cache slot each. */
async function scoreWindows(
  session: ModelSession,
  windows: readonly (Window & { readonly seed: number })[],
  options: { readonly blockLength: number; readonly draws: number; readonly mask: number },
): Promise<number[][]> {
  const { blockLength, draws, mask } = options;
  const nats = windows.map(() => new Array<number>(draws).fill(0));
  const hidden = windows.map((window) => drawMasks(window, blockLength, draws));
  const cached = windows.map(() => 0);
  const blocks = Math.max(...windows.map(({ ids }) => ids.length / blockLength));
  for (let block = 0; block < blocks; block++) {
    for (let draw = 0; draw < draws; draw++) {
      const start = block * blockLength;
      const passes = windows.flatMap(({ ids, given }, slot): Draw[] => {
        const masked = hidden[slot][draw][block] ?? [];
        if (masked.length === 0) return [];
        const settled = ids.slice(cached[slot], start); // cached by this pass, as the engine does
        const noisy = ids.slice(start, start + blockLength);
        for (const position of masked) noisy[position] = mask;
        const input = {
          slot,
          start: cached[slot],
          ids: [...settled, ...noisy],
          blockLength,
          keep: settled.length,
          rows: masked.map((position) => settled.length + position),
          watch: [...new Set(masked.map((position) => ids[start + position]))],
        };
        cached[slot] = start;
        const room = blockLength - (block === 0 ? given : 0);
        const targets = masked.map((position) => ids[start + position]);
        return [{ slot, input, targets, weight: room / masked.length }];
      });
      if (passes.length === 0) continue;
      const candidates = await session.forward(passes.map(({ input }) => input));
      passes.forEach(({ slot, input: { watch }, targets, weight }, p) => {
        const { watched, logSumExp } = candidates[p];
        targets.forEach((target, n) => {
          const logit = watched[n * watch.length + watch.indexOf(target)];
          nats[slot][draw] += weight * (logSumExp[n] - logit);
        });
      });
    }
  }
  await Promise.all(windows.map((_, slot) => session.release(slot)));
  return nats;
}

/**
 * The masked positions of every block, [draws][blocks]. The numbers of masks are spread evenly over the blocks of a draw
 * (stratified), so that the estimate varies less; the draws are independent.
 */
function drawMasks(
  { ids, given, seed }: Window & { readonly seed: number },
  blockLength: number,
  draws: number,
): number[][][] {
  const blocks = ids.length / blockLength;
  return Array.from({ length: draws }, (_, draw) => {
    const random = randomFrom(mix(seed, blockLength, draw));
    const strata = shuffled(Array.from({ length: blocks }, (_, i) => i), random);
    return strata.map((stratum, block) => {
      const first = block === 0 ? given : 0;
      const room = blockLength - first;
      const share = (stratum + random()) / blocks;
      const count = Math.min(room, Math.floor(share * room) + 1);
      const positions = Array.from({ length: room }, (_, i) => first + i);
      return shuffled(positions, random).slice(0, count).sort((a, b) => a - b);
    });
  });
}

function shuffled<T>(items: T[], random: () => number): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

/** One seed from several numbers (FNV-1a over 32-bit words, then an avalanche). */
export function mix(...numbers: number[]): number {
  let state = 2166136261;
  for (const number of numbers) {
    state = Math.imul(state ^ number, 16777619);
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d);
    state ^= state >>> 12;
  }
  return state >>> 0;
}
