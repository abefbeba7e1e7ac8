/** Scheduler: which sequences share the next forward pass; admission, fairness, settling. Knows no tensors and no text. */
import { EngineError } from "./errors.ts";
import type { Sequence } from "./sequence.ts";

/** Limits of a scheduler. */
export interface SchedulerOptions {
  /** Cache slots: sequences that may be under way at once. */
  readonly slots: number;
  /** Sequences that may wait for a slot. */
  readonly waiting: number;
  /** Sequences of one pass. */
  readonly batch: number;
}

/** Owns the order of all sequences. Only the engine calls it. */
export class Scheduler {
  #waiting: Sequence[] = [];
  /** in order of their turn: the first goes next */
  #running: Sequence[] = [];
  #free: number[];

  /** @param release called with a slot whose sequence has ended, before the slot is given again */
  constructor(
    readonly options: SchedulerOptions,
    readonly release: (slot: number) => void,
  ) {
    this.#free = Array.from({ length: options.slots }, (_, i) => options.slots - 1 - i);
  }

  /** Sequences under way and waiting, and slots that are free. */
  get load(): { readonly running: number; readonly waiting: number; readonly free: number } {
    return {
      running: this.#running.length,
      waiting: this.#waiting.length,
      free: this.#free.length,
    };
  }

  /** @throws {EngineError} `queue_full` */
  add(sequence: Sequence): void {
    const { waiting } = this.options;
    if (this.#waiting.length >= waiting + this.#free.length) {
      throw new EngineError("queue_full", `${this.#waiting.length} requests wait already`);
    }
    this.#waiting.push(sequence);
  }

  /**
   * The sequences of the next pass, none when there is nothing to do. Turns go round; a pass takes sequences that are
   * either all filling the cache or all denoising, so that nobody waits for a longer pass than their own.
   */
  next(): Sequence[] {
    this.settle();
    while (this.#free.length > 0 && this.#waiting.length > 0) {
      const sequence = this.#waiting.shift()!;
      sequence.admit(this.#free.pop()!);
      this.#running.push(sequence);
    }
    const first = this.#running.at(0);
    if (first === undefined) return [];
    const turn = this.#running.filter((sequence) => sequence.prefilling === first.prefilling)
      .slice(0, this.options.batch);
    this.#running = [...this.#running.filter((sequence) => !turn.includes(sequence)), ...turn];
    return turn;
  }

  /** Drops ended sequences and frees their slots. */
  settle(): void {
    this.#waiting = this.#waiting.filter((sequence) => !sequence.finished);
    this.#running = this.#running.filter((sequence) => {
      if (!sequence.finished) return true;
      this.#free.push(sequence.slot);
      this.release(sequence.slot);
      return false;
    });
  }

  /** Every sequence that has not ended. */
  all(): Sequence[] {
    return [...this.#running, ...this.#waiting];
  }
}
