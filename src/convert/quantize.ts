/** 8-bit weights: q8 with a scale for each block, w8a8 with one for each row. */
import { QUANTIZATION_BLOCK, ZERO_POINT } from "../graph/storage.ts";

/** Adding and then subtracting it rounds a double below 2^51 to a whole number, half to even. */
export const ROUNDER = 1.5 * 2 ** 52;

/** Values of a quantised matrix and the scale of each run of them. */
export interface Quantized {
  /** value + 128, one byte each */
  readonly values: Uint8Array;
  readonly scales: Float32Array;
}

/**
 * Quantises row-major weights, symmetric, scale = largest magnitude / 127, rounded half to even.
 *
 * @param weights finite numbers, row-major
 * @param run how many weights share a scale: the block, or a whole row; no run goes across two rows
 *
 * @example
 * ```ts
 * import { quantize } from "./quantize.ts";
 * const { values, scales } = quantize(new Float32Array(32).fill(-0.5));
 * if (values[0] !== 1 || Math.abs(scales[0] * 127 - 0.5) > 1e-6) throw new Error("unexpected");
 * ```
 */
export function quantize(weights: Float32Array, run = QUANTIZATION_BLOCK): Quantized {
  const runs = weights.length / run;
  if (!Number.isInteger(runs)) {
    throw new RangeError(`${weights.length} weights are no runs of ${run}`);
  }
  const values = new Uint8Array(weights.length);
  const scales = new Float32Array(runs);
  for (let b = 0; b < runs; b++) {
    const start = b * run;
    let most = 0;
    for (let i = start; i < start + run; i++) {
      const size = Math.abs(weights[i]);
      if (size > most) most = size;
    }
    const scale = Math.fround(most / 127);
    scales[b] = scale;
    for (let i = start; i < start + run; i++) {
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
