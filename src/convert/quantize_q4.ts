/** Block-wise 4-bit weights: for each block the scale and the zero point that lose least, found by a short search. */
import { QUANTIZATION_BLOCK } from "../graph/storage.ts";
import { ROUNDER } from "./quantize.ts";

const HIGHEST = 15;

/** Shares of the scale that just covers a block: smaller ones clip its extremes and serve the rest better. */
const SHARES = [0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1.05];
/** Least-squares fits after the search; a third gains under 0.1 % of the squared error. */
const FITS = 2;

/** A q4 matrix, laid out as storage.ts says. */
export interface Quantized4 {
  /** level + zero, two weights to a byte, low half first */
  readonly values: Uint8Array;
  readonly scales: Float32Array;
  /** one for each block, two to a byte, low half first */
  readonly zeros: Uint8Array;
}

/**
 * Quantises finite weights to 4 bits.
 *
 * @param weights row-major, whose length is a multiple of two blocks, with no pair of blocks across two rows
 *
 * @example
 * ```ts
 * import { quantize4 } from "./quantize_q4.ts";
 * const { values, scales } = quantize4(Float32Array.from({ length: 64 }, (_, i) => i % 16));
 * if (values[1] !== 0x32 || scales[0] !== 1) throw new Error("sixteen even steps fit exactly");
 * ```
 */
export function quantize4(weights: Float32Array): Quantized4 {
  const pairs = weights.length / (2 * QUANTIZATION_BLOCK);
  if (!Number.isInteger(pairs)) {
    throw new RangeError(`${weights.length} weights are no pairs of blocks`);
  }
  const values = new Uint8Array(weights.length / 2);
  const scales = new Float32Array(2 * pairs);
  const zeros = new Uint8Array(pairs);
  const grid = { scale: 0, zero: 0 };
  for (let b = 0; b < scales.length; b++) {
    const start = b * QUANTIZATION_BLOCK;
    searchGrid(weights, start, grid);
    const { scale, zero } = grid;
    const inverse = scale === 0 ? 0 : 1 / scale;
    scales[b] = scale;
    zeros[b >> 1] |= zero << (b % 2 * 4);
    for (let i = start; i < start + QUANTIZATION_BLOCK; i += 2) {
      values[i >> 1] = level(weights[i], inverse, zero) | level(weights[i + 1], inverse, zero) << 4;
    }
  }
  return { values, scales, zeros };
}

/** How one block is rounded: a weight w becomes the level round(w / scale + zero) in 0 … 15. One object serves all blocks. */
interface Grid {
  scale: number;
  zero: number;
}

function level(weight: number, inverse: number, zero: number): number {
  const rounded = (weight * inverse + zero + ROUNDER) - ROUNDER;
  return rounded < 0 ? 0 : rounded > HIGHEST ? HIGHEST : rounded;
}

/**
 * The grid with the least squared error: the best of the shares of the block's range, then what fits the levels that it gives.
 */
function searchGrid(weights: Float32Array, start: number, best: Grid): void {
  let low = 0, high = 0; // zero lies within the range, because its level must be one of 0 … 15
  for (let i = start; i < start + QUANTIZATION_BLOCK; i++) {
    const weight = weights[i];
    if (weight < low) low = weight;
    else if (weight > high) high = weight;
  }
  best.scale = 0;
  best.zero = 8;
  let least = Infinity;
  const offer = (scale: number, zero: number) => {
    const stored = Math.fround(scale), whole = Math.min(HIGHEST, Math.max(0, Math.round(zero)));
    if (!(stored > 0)) return;
    const error = squaredError(weights, start, stored, whole);
    if (error >= least) return;
    least = error;
    best.scale = stored;
    best.zero = whole;
  };
  for (const share of SHARES) {
    const scale = (high - low) / HIGHEST * share;
    offer(scale, (HIGHEST - (low + high) / scale) / 2); // the middle of the range to the middle level
  }
  for (let fit = 0; fit < FITS && least < Infinity; fit++) {
    fitLine(weights, start, best, offer);
    fitScale(weights, start, best, offer);
  }
}

function squaredError(weights: Float32Array, start: number, scale: number, zero: number): number {
  const inverse = 1 / scale;
  let sum = 0;
  for (let i = start; i < start + QUANTIZATION_BLOCK; i++) {
    const error = weights[i] - (level(weights[i], inverse, zero) - zero) * scale;
    sum += error * error;
  }
  return sum;
}

type Offer = (scale: number, zero: number) => void;

/** Least squares of weight = scale * (level - zero) over both, for the levels that a grid gives. */
function fitLine(weights: Float32Array, start: number, grid: Grid, offer: Offer): void {
  const { zero } = grid, inverse = 1 / grid.scale;
  let products = 0, squares = 0, levels = 0, sum = 0;
  for (let i = start; i < start + QUANTIZATION_BLOCK; i++) {
    const q = level(weights[i], inverse, zero);
    products += weights[i] * q;
    squares += q * q;
    levels += q;
    sum += weights[i];
  }
  const variance = squares - levels * levels / QUANTIZATION_BLOCK;
  if (variance <= 0) return;
  const scale = (products - sum * levels / QUANTIZATION_BLOCK) / variance;
  offer(scale, (levels - sum / scale) / QUANTIZATION_BLOCK);
}

/** Least squares over the scale alone. */
function fitScale(weights: Float32Array, start: number, grid: Grid, offer: Offer): void {
  const { zero } = grid, inverse = 1 / grid.scale;
  let products = 0, squares = 0;
  for (let i = start; i < start + QUANTIZATION_BLOCK; i++) {
    const q = level(weights[i], inverse, zero) - zero;
    products += weights[i] * q;
    squares += q * q;
  }
  if (squares > 0) offer(products / squares, zero);
}
