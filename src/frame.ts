/** Frames: what a reader of one generation sees. A frame is a snapshot of one block, never a delta. */

/** State of one position: `given` by the prompt, still `masked`, or `unmasked` by the model. */
export type TokenState = "given" | "masked" | "unmasked";

/** One position of a block as a reader sees it. */
export interface FrameToken {
  /** Token id; the mask id where masked. */
  readonly id: number;
  /** Text of the token; empty where masked, or where a character is completed by a later token. */
  readonly text: string;
  readonly state: TokenState;
  /** Probability of the token when it was accepted, 0 where masked, 1 where given. */
  readonly confidence: number;
}

/** Why a generation ended. */
export type FinishReason = "stop" | "length";

/** What a generation cost. */
export interface Usage {
  readonly promptTokens: number;
  /** Tokens written, the end-of-text token not counted. */
  readonly completionTokens: number;
  /** Forward passes that this generation took part in: prefill, denoise and commit. */
  readonly forwardPasses: number;
}

/** When things happened, in milliseconds from the call. */
export interface Timings {
  /** Waiting for a place. */
  readonly queueMs: number;
  /** From the place until the prompt was in the cache. */
  readonly prefillMs: number;
  /** Until the first draft frame. */
  readonly firstFrameMs: number;
  readonly totalMs: number;
  /** Completion tokens over the time since the place was given. */
  readonly tokensPerSecond: number;
}

export interface StartFrame {
  readonly type: "start";
  readonly promptTokens: number;
  readonly blockLength: number;
}

/** The current block after one denoising step. May be skipped for a slow reader. */
export interface DraftFrame {
  readonly type: "draft";
  /** Number of the block within the output, from 0. */
  readonly block: number;
  /** Position on the canvas (prompt and output) of the first of `tokens`. */
  readonly start: number;
  /** Denoising steps that this block has taken. */
  readonly step: number;
  readonly tokens: readonly FrameToken[];
  /** The unmasked output text of this block; masked positions add nothing. */
  readonly text: string;
}

/** A finished block. Never skipped; the concatenated texts of all commits are the output. */
export interface CommitFrame {
  readonly type: "commit";
  readonly block: number;
  readonly start: number;
  readonly text: string;
  readonly tokens: readonly FrameToken[];
}

export interface EndFrame {
  readonly type: "end";
  readonly finishReason: FinishReason;
  /** The whole output. */
  readonly text: string;
  readonly usage: Usage;
  readonly timings: Timings;
}

/** Everything that a generation tells its reader, in order: start, (draft* commit)*, end. */
export type Frame = StartFrame | DraftFrame | CommitFrame | EndFrame;

/**
 * A queue of frames between the engine (one writer) and one reader. While the reader is slow, only the newest draft waits,
 * and a commit replaces the draft of its block: a slow reader loses drafts, never text.
 */
export class FrameQueue {
  #waiting: Frame[] = [];
  #failure: { readonly error: unknown } | undefined;
  #closed = false;
  #wake: (() => void) | undefined;

  push(frame: Frame): void {
    if (this.#closed) return;
    if (this.#waiting.at(-1)?.type === "draft" && frame.type !== "end") this.#waiting.pop();
    this.#waiting.push(frame);
    this.#wake?.();
  }

  /** Lets the reader finish what waits, then end; with an error, end by throwing it. */
  close(failure?: { readonly error: unknown }): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure = failure;
    this.#wake?.();
  }

  /** The frames in order, until the queue is closed. */
  async *read(): AsyncGenerator<Frame, void, undefined> {
    while (true) {
      const frame = this.#waiting.shift();
      if (frame !== undefined) {
        yield frame;
        continue;
      }
      if (this.#failure !== undefined) throw this.#failure.error;
      if (this.#closed) return;
      await new Promise<void>((resolve) => this.#wake = resolve);
      this.#wake = undefined;
    }
  }
}
