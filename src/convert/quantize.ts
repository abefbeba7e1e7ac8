/** Block-wise 8-bit weights: the form in which bundles store large matrices. */
import { QUANTIZATION_BLOCK, ZERO_POINT } from "../graph/weights.ts";

/** Adding and then subtracting it rounds a double below 2^51 to a whole number, half to even. */
const ROUNDER = 1.5 * 2 ** 52;

/** Values of a quantised matrix and the scale of each block of {@link QUANTIZATION_BLOCK} of them. */
export interface Quantized {
  /** value + 128, one byte each */
  readonly values: Uint8Array;
  readonly scales: Float32Array;
}

/**
 * Quantises row-major weights, symmetric, scale = largest magnitude / 127, rounded half to even.
 *
 * @param weights finite numbers, whose length is a multiple of the block, with no block across two rows
 *
 * @example
 * ```ts
 * import { quantize } from "./quantize.ts";
 * const { values, scales } = quantize(new Float32Array(32).fill(-0.5));
 * if (values[0] !== 1 || Math.abs(scales[0] * 127 - 0.5) > 1e-6) throw new Error("unexpected");
 * ```
 */
export function quantize(weights: Float32Array): Quantized {
  const blocks = weights.length / QUANTIZATION_BLOCK;
  if (!Number.isInteger(blocks)) throw new RangeError(`${weights.length} weights are no blocks`);
  const values = new Uint8Array(weights.length);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    const start = b * QUANTIZATION_BLOCK;
    let most = 0;
    for (let i = start; i < start + QUANTIZATION_BLOCK; i++) {
      const size = Math.abs(weights[i]);
      if (size > most) most = size;
    }
    const scale = Math.fround(most / 127);
    scales[b] = scale;
    for (let i = start; i < start + QUANTIZATION_BLOCK; i++) {
      const level = scale === 0 ? 0 : (weights[i] / scale + ROUNDER) - ROUNDER;
      values[i] = (level > 127 ? 127 : level < -127 ? -127 : level) + ZERO_POINT;
    }
  }
  return { values, scales };
}

/** Whether every weight is a number and none is infinite: what quantise() and a forward pass need. */
export function allFinite(weights: Float32Array): boolean {
  for (let i = 0; i < weights.length; i++) {
    if (!(Math.abs(weights[i]) < Infinity)) return false; // written so that NaN fails too
  }
  return true;
}
