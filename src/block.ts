/** One block of positions on the canvas: pure data, written only by sequence.ts. */

/** Position states; see {@link file://./frame.ts} for their meaning on the wire. */
export const GIVEN = 0, MASKED = 1, UNMASKED = 2;

/** A block under denoising. All arrays have one entry per position. */
export interface Block {
  /** Position on the canvas of the block's first entry: a multiple of the block length. */
  readonly start: number;
  /** Token ids; the mask id where masked. */
  readonly ids: Int32Array;
  readonly states: Uint8Array;
  /** Probability of each token when it was accepted. */
  readonly confidences: Float32Array;
}

/**
 * A block whose first positions hold `given` ids and whose other positions are masked.
 *
 * @param length positions in the block
 */
export function openBlock(
  start: number,
  length: number,
  given: readonly number[],
  maskId: number,
): Block {
  const block = {
    start,
    ids: new Int32Array(length).fill(maskId),
    states: new Uint8Array(length).fill(MASKED),
    confidences: new Float32Array(length),
  };
  block.ids.set(given);
  block.states.fill(GIVEN, 0, given.length);
  block.confidences.fill(1, 0, given.length);
  return block;
}
