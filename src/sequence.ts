/**
 * Sequence: one request's life. It owns the canvas (prompt and settled output) and the block under denoising, says what the
 * next forward pass needs, and turns the candidates that come back into accepted tokens and frames.
 *
 * Whatever is settled but not yet cached goes in front of the current block in the same pass. So the last part of a prompt,
 * and each finished block, is committed by the pass that denoises what follows it: no pass of its own.
 */
import { type Block, GIVEN, MASKED, openBlock, UNMASKED } from "./block.ts";
import {
  type FinishReason,
  FrameQueue,
  type FrameToken,
  type Timings,
  type TokenState,
} from "./frame.ts";
import type { Manifest } from "./manifest.ts";
import type { ResolvedOptions } from "./options.ts";
import { randomFrom } from "./random.ts";
import { type Candidates, makeSampler, type Sampler } from "./sampler.ts";
import type { ForwardInput } from "./session.ts";
import { type StopText, stopText } from "./stop_text.ts";
import type { TextCodec, TextStream } from "./tokenizer.ts";
import { type Proposal, quotas, type Strategy, unmaskingStrategy } from "./unmask.ts";

/** Prompt tokens that one pass takes at most: bounds how long others wait for a long prompt. */
export const PREFILL_CHUNK = 256;
/** Tokens before a block that its drafts are decoded after: a character spans at most so many. */
const DECODE_CONTEXT = 4;

const STATE_NAMES: readonly TokenState[] = ["given", "masked", "unmasked"];

/** One generation. Only the engine's loop calls `advance`; only its scheduler sets `slot`. */
export class Sequence {
  readonly frames = new FrameQueue();
  readonly promptTokens: number;
  /** Cache slot while running; set by the scheduler. */
  slot = -1;

  #canvas: number[];
  /** positions whose keys and values are in the cache; a multiple of the block length */
  #cached = 0;
  #block!: Block; // opened in the constructor
  #blockNumber = -1;
  #step = 0;
  #quotas: readonly number[] = [];
  #completionTokens = 0;
  #forwardPasses = 0;
  #text = "";
  #finished = false;

  /** first position that must not be written: prompt + maxTokens */
  #limit: number;
  #eos: ReadonlySet<number>;
  #strategy: Strategy;
  #sample: Sampler;
  #output: TextStream;
  #stop: StopText;
  #clock = { created: performance.now(), admitted: 0, prefilled: 0, firstFrame: 0 };

  constructor(
    prompt: readonly number[],
    readonly options: ResolvedOptions,
    readonly manifest: Manifest,
    readonly codec: TextCodec,
  ) {
    const { mask, eos, pad } = manifest.tokens;
    this.#canvas = [...prompt];
    this.promptTokens = prompt.length;
    this.#limit = prompt.length + options.maxTokens;
    this.#eos = new Set(eos);
    this.#strategy = unmaskingStrategy(options);
    const suppressed = new Set(pad === undefined ? [mask] : [mask, pad]);
    for (const id of eos) suppressed.delete(id); // some models pad with their end-of-text token
    this.#sample = makeSampler(options, suppressed, randomFrom(options.seed));
    this.#output = codec.stream();
    this.#stop = stopText(options.stop);
    this.frames.push({
      type: "start",
      promptTokens: prompt.length,
      blockLength: options.blockLength,
    });
    this.#openBlock();
  }

  /** Whether it has ended, for whatever reason; its slot may be freed. */
  get finished(): boolean {
    return this.#finished;
  }

  /** Whether the next pass only caches a part of the prompt. */
  get prefilling(): boolean {
    return this.#block.start - this.#cached > PREFILL_CHUNK;
  }

  /** What the next forward pass needs. */
  get input(): ForwardInput {
    const { blockLength } = this.options;
    const common = { slot: this.slot, start: this.#cached, blockLength };
    if (this.prefilling) {
      const keep = Math.floor(PREFILL_CHUNK / blockLength) * blockLength || blockLength;
      const ids = this.#canvas.slice(this.#cached, this.#cached + keep);
      return { ...common, ids, keep, rows: [] };
    }
    const settled = this.#canvas.slice(this.#cached, this.#block.start);
    const rows = this.#open().map((position) => settled.length + position);
    return { ...common, ids: [...settled, ...this.#block.ids], keep: settled.length, rows };
  }

  /** Called when a slot is given. */
  admit(slot: number): void {
    this.slot = slot;
    this.#clock.admitted = performance.now();
  }

  /**
   * Takes the result of the pass that `input` described.
   *
   * @param candidates one row per open position of the block, none after a pass that only filled the cache
   */
  advance(input: ForwardInput, candidates: Candidates): void {
    if (this.#finished) return; // cancelled while the pass ran
    this.#cached += input.keep;
    this.#forwardPasses++;
    if (input.rows.length === 0) return;
    this.#clock.prefilled ||= performance.now();
    this.#accept(input.rows.map((row) => row - input.keep), candidates);
    const end = this.#settledEnd();
    if (end === this.#block.ids.length || this.#ended(end)) this.#finishBlock(end);
    else this.#draft();
  }

  /** Ends without a result: cancelled, failed, engine closed. */
  abort(error: unknown): void {
    if (this.#finished) return;
    this.#finished = true;
    this.frames.close({ error });
  }

  /** Masked positions that may still be written. */
  #open(): number[] {
    const { states, start } = this.#block;
    const open: number[] = [];
    for (let i = 0; i < states.length && start + i < this.#limit; i++) {
      if (states[i] === MASKED) open.push(i);
    }
    return open;
  }

  #openBlock(): void {
    const { blockLength } = this.options;
    const start = Math.floor(this.#canvas.length / blockLength) * blockLength;
    const end = Math.min(start + blockLength, this.manifest.architecture.contextLength);
    const given = this.#canvas.slice(start);
    this.#block = openBlock(start, end - start, given, this.manifest.tokens.mask);
    this.#blockNumber++;
    this.#step = 0;
    this.#quotas = quotas(this.#open().length, this.options.denoisingSteps);
  }

  /** @param open positions of the block that `candidates` are of, in order */
  #accept(open: readonly number[], candidates: Candidates): void {
    const samples = open.map((_, n) => this.#sample(candidates, n));
    const proposals: Proposal[] = open.map((position, n) => ({
      position,
      confidence: samples[n].confidence,
      entropy: candidates.entropy[n],
    }));
    for (const n of this.#strategy(proposals, this.#quotas[this.#step])) {
      this.#block.ids[open[n]] = samples[n].id;
      this.#block.states[open[n]] = UNMASKED;
      this.#block.confidences[open[n]] = samples[n].confidence;
    }
    this.#step++;
  }

  /** End of the block's settled head: up to the first mask, the limit, or and including an end-of-text token. */
  #settledEnd(): number {
    const { ids, states, start } = this.#block;
    for (let i = 0; i < ids.length; i++) {
      if (states[i] === MASKED) return i;
      if (states[i] === UNMASKED && this.#eos.has(ids[i])) return i + 1;
    }
    return Math.min(ids.length, this.#limit - start);
  }

  /** Whether nothing after the settled head can matter. */
  #ended(end: number): boolean {
    const { ids, states, start } = this.#block;
    const last = end - 1;
    return start + end >= this.#limit ||
      (last >= 0 && states[last] === UNMASKED && this.#eos.has(ids[last]));
  }

  #tokens(texts: readonly string[], end: number): FrameToken[] {
    const { ids, states, confidences } = this.#block;
    return Array.from({ length: end }, (_, i) => ({
      id: ids[i],
      text: texts[i],
      state: STATE_NAMES[states[i]],
      confidence: confidences[i],
    }));
  }

  /** Text of each position of the block, decoded after the positions before it; a mask breaks characters. */
  #blockTexts(end: number): string[] {
    const { ids, states, start } = this.#block;
    const stream = this.codec.stream();
    stream.push(this.#canvas.slice(Math.max(0, start - DECODE_CONTEXT), start));
    return Array.from({ length: end }, (_, i) => {
      if (states[i] !== MASKED) return stream.push([ids[i]])[0];
      stream.flush();
      return "";
    });
  }

  #draft(): void {
    const end = Math.min(this.#block.ids.length, this.#limit - this.#block.start);
    const texts = this.#blockTexts(end);
    this.#clock.firstFrame ||= performance.now();
    this.frames.push({
      type: "draft",
      block: this.#blockNumber,
      step: this.#step,
      tokens: this.#tokens(texts, end),
      text: texts.filter((_, i) => this.#block.states[i] !== GIVEN).join(""),
    });
  }

  /** Settles positions up to `end`, commits their text, and ends or opens the next block. */
  #finishBlock(end: number): void {
    const { ids, states } = this.#block;
    const texts = this.#blockTexts(end);
    this.#clock.firstFrame ||= performance.now();
    let reason: FinishReason | undefined = this.#block.start + end >= this.#limit
      ? "length"
      : undefined;
    for (let i = this.#canvas.length - this.#block.start; i < end; i++) {
      this.#canvas.push(ids[i]);
      if (states[i] === UNMASKED && this.#eos.has(ids[i])) {
        reason = "stop";
        break;
      }
      this.#completionTokens++;
      if (this.#stop.push(this.#output.push([ids[i]])[0])) {
        reason = "stop";
        break;
      }
    }
    let text = this.#stop.take();
    if (reason !== undefined) {
      this.#stop.push(this.#output.flush());
      text += this.#stop.takeAll();
    }
    this.#text += text;
    const tokens = this.#tokens(texts, end);
    this.frames.push({ type: "commit", block: this.#blockNumber, text, tokens });
    if (reason === undefined) this.#openBlock();
    else this.#end(reason);
  }

  #end(finishReason: FinishReason): void {
    this.#finished = true;
    this.frames.push({
      type: "end",
      finishReason,
      text: this.#text,
      usage: {
        promptTokens: this.promptTokens,
        completionTokens: this.#completionTokens,
        forwardPasses: this.#forwardPasses,
      },
      timings: this.#timings(),
    });
    this.frames.close();
  }

  #timings(): Timings {
    const { created, admitted, prefilled, firstFrame } = this.#clock;
    const now = performance.now();
    return {
      queueMs: admitted - created,
      prefillMs: prefilled - admitted,
      firstFrameMs: firstFrame - created,
      totalMs: now - created,
      tokensPerSecond: this.#completionTokens / Math.max(1e-3, (now - admitted) / 1000),
    };
  }
}
