/** The canvas of one sequence and the block on it: pure data, written only by sequence.ts. */

/** Position states; see {@link file://./frame.ts} for their meaning on the wire. */
export const GIVEN = 0, MASKED = 1, UNMASKED = 2;

/** Prompt and output as one row of positions. All arrays have one entry per position. */
export interface Canvas {
  /** Token ids; the mask id where masked. */
  readonly ids: Int32Array;
  readonly states: Uint8Array;
  /** Probability of each token when it was accepted. */
  readonly confidences: Float32Array;
}

/** Positions `start` … `end` of a canvas. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * A canvas whose first positions hold the prompt; the mask id in it is a hole to be filled.
 *
 * @param length positions in all, at least the prompt's
 */
export function openCanvas(prompt: readonly number[], length: number, maskId: number): Canvas {
  const canvas = {
    ids: new Int32Array(length).fill(maskId),
    states: new Uint8Array(length).fill(MASKED),
    confidences: new Float32Array(length),
  };
  canvas.ids.set(prompt);
  prompt.forEach((id, position) => {
    if (id === maskId) return;
    canvas.states[position] = GIVEN;
    canvas.confidences[position] = 1;
  });
  return canvas;
}

/** Where blocks begin: at every `length` positions, the first one `offset` positions before position 0. */
export interface BlockGrid {
  readonly length: number;
  readonly offset: number;
}

/** The block that holds `position`, cut to a canvas of `length` positions. */
export function blockAt(
  { length, offset }: BlockGrid,
  position: number,
  canvasLength: number,
): Span {
  const start = Math.floor((position + offset) / length) * length - offset;
  return { start: Math.max(0, start), end: Math.min(start + length, canvasLength) };
}
