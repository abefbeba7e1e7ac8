/**
 * Sequence: one request's life. It owns the canvas (prompt and output) and the block under denoising, says what the next
 * forward pass needs, and turns the candidates that come back into accepted tokens and frames.
 */
import {
  blockAt,
  type BlockGrid,
  type Canvas,
  GIVEN,
  MASKED,
  openCanvas,
  type Span,
  UNMASKED,
} from "./block.ts";
import { blockTexts, frameTokens } from "./block_text.ts";
import { type FinishReason, FrameQueue, type Timings } from "./frame.ts";
import { canvasLength, gridOf, viewOf } from "./layout.ts";
import type { Manifest } from "./manifest.ts";
import type { ResolvedOptions } from "./options.ts";
import { makePasses, type Pass, type Passes, type PassView } from "./passes.ts";
import { type Candidates, makeSampler, type Sampler, watchedTokens } from "./sampler.ts";
import type { ForwardInput } from "./forward.ts";
import { type StopText, stopText } from "./stop_text.ts";
import type { TextCodec, TextStream } from "./tokenizer.ts";
import { transferSchedule, type TransferStep } from "./transfer_schedule.ts";
import { type Strategy, unmaskingStrategy } from "./unmask.ts";

/** One generation. Only the engine's loop calls `advance`; only its scheduler sets `slot`. */
export class Sequence {
  readonly frames = new FrameQueue();
  readonly promptTokens: number;
  /** Cache slot while running; set by the scheduler. */
  slot = -1;

  #canvas: Canvas;
  #grid: BlockGrid;
  #passes: Passes;
  /** the pass that `input` described last */
  #pass: Pass | undefined;
  /** positions before it are final */
  #settled = 0;
  #block: Span = { start: 0, end: 0 };
  #blockNumber = -1;
  #step = 0;
  /** steps left of the sub-block under denoising */
  #schedule: TransferStep[] = [];
  #scheduled: Span | undefined;
  #completionTokens = 0;
  #forwardPasses = 0;
  #text = "";
  #finished = false;

  /** first position that must not be written: prompt + maxTokens */
  #limit: number;
  #eos: ReadonlySet<number>;
  #strategy: Strategy;
  #sample: Sampler;
  #watched: readonly number[];
  #output: TextStream;
  #stop: StopText;
  #clock = { created: performance.now(), admitted: 0, prefilled: 0, firstFrame: 0 };

  /** @param random uniform numbers in [0, 1): all that chance decides in this sequence */
  constructor(
    prompt: readonly number[],
    readonly options: ResolvedOptions,
    readonly manifest: Manifest,
    readonly codec: TextCodec,
    random: () => number,
  ) {
    const { mask, eos, pad } = manifest.tokens;
    this.promptTokens = prompt.length;
    this.#limit = prompt.length + options.maxTokens;
    this.#grid = gridOf(prompt, options, manifest);
    this.#canvas = openCanvas(prompt, canvasLength(this.#limit, this.#grid, manifest), mask);
    this.#passes = makePasses({
      ...manifest,
      grid: this.#grid,
      approximateCache: options.approximateCache,
    });
    this.#eos = new Set(eos);
    this.#strategy = unmaskingStrategy(options, random);
    const unwritable = new Set(pad === undefined ? [mask] : [mask, pad]);
    for (const id of eos) unwritable.delete(id); // some models pad with their end-of-text token
    this.#sample = makeSampler(options, unwritable, random);
    this.#watched = watchedTokens(options);
    this.#output = codec.stream();
    this.#stop = stopText(options.stop);
    this.frames.push({
      type: "start",
      promptTokens: prompt.length,
      blockLength: options.blockLength,
    });
    this.#hasMore(); // or options would not have let it through
    this.#openBlock();
  }

  /** Whether it has ended, for whatever reason; its slot may be freed. */
  get finished(): boolean {
    return this.#finished;
  }

  /** Whether the next pass only caches a part of the prompt. */
  get prefilling(): boolean {
    return this.#passes.prefilling(this.#block);
  }

  /** What the next forward pass needs. */
  get input(): ForwardInput {
    const pass = this.#pass = this.#passes.next(this.#view());
    const { start, end, cached, keepTo, rows } = pass;
    const ids = Array.from(this.#canvas.ids.subarray(start, end));
    const { cfgScale } = this.options;
    return {
      slot: this.slot,
      start,
      ids,
      cached,
      keep: keepTo - start,
      rows: rows.map((position) => position - start),
      watch: this.#watched,
      ...(this.manifest.attention === "bidirectional"
        ? { blockLength: Infinity, blockOffset: 0 }
        : { blockLength: this.#grid.length, blockOffset: this.#grid.offset }),
      ...(cfgScale > 0 ? { guidance: { scale: cfgScale, ids: this.#unguided(start, ids) } } : {}),
    };
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
  advance(candidates: Candidates): void {
    if (this.#finished || this.#pass === undefined) return; // cancelled while the pass ran
    const view = this.#view();
    this.#passes.taken(this.#pass, view);
    this.#forwardPasses++;
    if (this.#pass.rows.length === 0) return;
    this.#clock.prefilled ||= performance.now();
    this.#accept(view, candidates);
    const end = this.#settledEnd();
    if (end === this.#block.end || this.#ended(end)) this.#finishBlock(end);
    else this.#draft();
  }

  /** Ends without a result: cancelled, failed, engine closed. */
  abort(error: unknown): void {
    if (this.#finished) return;
    this.#finished = true;
    this.frames.close({ error });
  }

  /** The ids of a pass as they would be without a prompt. */
  #unguided(start: number, ids: readonly number[]): number[] {
    const { states } = this.#canvas;
    return ids.map((id, i) => states[start + i] === GIVEN ? this.manifest.tokens.mask : id);
  }

  #view(): PassView {
    return viewOf(this.#canvas, {
      block: this.#block,
      limit: this.#limit,
      subBlockLength: this.options.subBlockLength,
      blockStart: this.manifest.blockStart,
    });
  }

  /** Moves on to the next position that is to be written; whether there is one. */
  #hasMore(): boolean {
    const { states } = this.#canvas;
    while (this.#settled < this.#limit && states[this.#settled] !== MASKED) this.#settled++;
    return this.#settled < this.#limit;
  }

  /** Opens the block of the next position that is to be written. */
  #openBlock(): void {
    this.#block = blockAt(this.#grid, this.#settled, this.#canvas.states.length);
    this.#blockNumber++;
    this.#step = 0;
    this.#scheduled = undefined;
  }

  #accept({ open, subBlock, lead }: PassView, candidates: Candidates): void {
    const samples = open.map((_, n) => this.#sample(candidates, n));
    const accepted = lead ? [0] : this.#strategy(samples, this.#transferStep(subBlock, open));
    for (const n of accepted) {
      this.#canvas.ids[open[n]] = samples[n].id;
      this.#canvas.states[open[n]] = UNMASKED;
      this.#canvas.confidences[open[n]] = samples[n].confidence;
    }
    this.#step++;
  }

  /** The schedule's next step; a sub-block has its share of the block's steps. */
  #transferStep(subBlock: Span, open: readonly number[]): TransferStep {
    const { denoisingSteps, transferSchedule: name, timestepEpsilon, unmasking } = this.options;
    const { blockLength } = this.options;
    if (this.#scheduled?.start !== subBlock.start) {
      const length = this.options.subBlockLength;
      this.#scheduled = subBlock;
      this.#schedule = transferSchedule(name, {
        masked: open.length,
        steps: Math.max(1, Math.ceil(denoisingSteps * length / blockLength)),
        blockLength: length,
        epsilon: timestepEpsilon,
      }).filter(({ quota }) => quota > 0 || unmasking === "origin"); // a step that accepts nothing needs no pass
    }
    return this.#schedule.shift() ?? { quota: 1, share: 1 };
  }

  /** End of the block's settled head: up to the first mask, the limit, or and including an end-of-text token. */
  #settledEnd(): number {
    const { ids, states } = this.#canvas;
    const { start, end } = this.#block;
    for (let p = start; p < end; p++) {
      if (states[p] === MASKED) return p;
      if (states[p] === UNMASKED && this.#eos.has(ids[p]) && p >= this.promptTokens) return p + 1;
    }
    return Math.min(end, this.#limit);
  }

  /** Whether nothing after the settled head can matter. */
  #ended(end: number): boolean {
    const { ids, states } = this.#canvas;
    return end >= this.#limit ||
      (end > this.promptTokens && states[end - 1] === UNMASKED && this.#eos.has(ids[end - 1]));
  }

  #draft(): void {
    const { start, end } = this.#block;
    const span = { start, end: Math.min(end, this.#limit) };
    const texts = blockTexts(this.#canvas, span, this.codec);
    this.#clock.firstFrame ||= performance.now();
    this.frames.push({
      type: "draft",
      block: this.#blockNumber,
      start,
      step: this.#step,
      tokens: frameTokens(this.#canvas, span, texts),
      text: texts.filter((_, i) => this.#canvas.states[start + i] !== GIVEN).join(""),
    });
  }

  /** Settles positions up to `end`, commits their text, and ends or opens the next block. */
  #finishBlock(end: number): void {
    const span = { start: this.#block.start, end };
    const texts = blockTexts(this.#canvas, span, this.codec);
    this.#clock.firstFrame ||= performance.now();
    const reason = this.#settle(end);
    let text = this.#stop.take();
    if (reason !== undefined) {
      this.#stop.push(this.#output.flush());
      text += this.#stop.takeAll();
    }
    this.#text += text;
    const tokens = frameTokens(this.#canvas, span, texts);
    const { start } = span;
    this.frames.push({ type: "commit", block: this.#blockNumber, start, text, tokens });
    if (reason === undefined) this.#openBlock();
    else this.#end(reason);
  }

  /** Adds the written positions up to `end` to the output; why it ends there, if it does. */
  #settle(end: number): FinishReason | undefined {
    const { ids, states } = this.#canvas;
    for (; this.#settled < end; this.#settled++) {
      if (states[this.#settled] !== UNMASKED) continue; // given behind a hole
      const id = ids[this.#settled];
      if (this.#eos.has(id) && this.#settled >= this.promptTokens) return "stop";
      this.#completionTokens++;
      if (this.#stop.push(this.#output.push([id])[0])) return "stop";
    }
    return this.#hasMore() ? undefined : "length";
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
