/** Numbers on their way into a bundle: decoding of 16-bit floats, block-wise 8-bit quantisation. */
import { QUANTIZATION_BLOCK, ZERO_POINT } from "../graph/weights.ts";

/** Source element types that convert reads. */
export type FloatDtype = "F32" | "F16" | "BF16";

/** Adding and subtracting it rounds a double of moderate size to a whole number, half to even. */
const ROUNDER = 1.5 * 2 ** 52;

let halfTable: Float32Array | undefined; // written once by decodeFloats(), then read only

/**
 * The float32 values of little-endian bytes. Exact: every F16 and BF16 number is a float32.
 *
 * @param bytes starts at offset 0 of its buffer, or at a multiple of the element size
 *
 * @example
 * ```ts
 * import { decodeFloats } from "./quantize.ts";
 * const [one] = decodeFloats(new Uint8Array([0x80, 0x3f]), "BF16");
 * if (one !== 1) throw new Error("unreachable");
 * ```
 */
export function decodeFloats(bytes: Uint8Array, dtype: FloatDtype): Float32Array {
  if (dtype === "F32") {
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  }
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const out = new Float32Array(words.length);
  if (dtype === "BF16") {
    const bits = new Uint32Array(out.buffer); // bfloat16 is the upper half of a float32
    for (let i = 0; i < words.length; i++) bits[i] = words[i] << 16;
    return out;
  }
  const table = halfTable ??= Float32Array.from({ length: 65536 }, (_, bits) => halfToFloat(bits));
  for (let i = 0; i < words.length; i++) out[i] = table[words[i]];
  return out;
}

/** IEEE 754 binary16, given as its 16 bits. */
function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A quantised run of values: `values` U8 (value + 128), one float32 scale per 32 values. */
export interface Quantized {
  readonly values: Uint8Array;
  readonly scales: Float32Array;
}

/**
 * Symmetric 8-bit quantisation in blocks of 32: scale = absmax / 127, values rounded half to even. The error of a value
 * is at most half a scale (plus float32 rounding). A block of zeros gets scale 0.
 *
 * @param data finite values; their number is a multiple of 32, and no block straddles a row
 *
 * @example
 * ```ts
 * import { quantizeBlocks } from "./quantize.ts";
 * const { values, scales } = quantizeBlocks(new Float32Array(32).fill(-2.54));
 * if (values[0] !== 1 || Math.abs(scales[0] - 0.02) > 1e-9) throw new Error("unreachable");
 * ```
 */
export function quantizeBlocks(data: Float32Array): Quantized {
  if (data.length % QUANTIZATION_BLOCK !== 0) {
    throw new RangeError(`${data.length} values are no multiple of ${QUANTIZATION_BLOCK}`);
  }
  const values = new Uint8Array(data.length);
  const scales = new Float32Array(data.length / QUANTIZATION_BLOCK);
  for (let b = 0; b < scales.length; b++) {
    const start = b * QUANTIZATION_BLOCK;
    const end = start + QUANTIZATION_BLOCK;
    let most = 0;
    for (let j = start; j < end; j++) {
      const size = Math.abs(data[j]);
      if (size > most) most = size;
    }
    const scale = scales[b] = Math.fround(most / 127);
    if (scale === 0) { // zeros, or values so small that their scale is no float32
      values.fill(ZERO_POINT, start, end);
      continue;
    }
    for (let j = start; j < end; j++) {
      const q = (data[j] / scale + ROUNDER) - ROUNDER;
      values[j] = ZERO_POINT + (q > 127 ? 127 : q < -127 ? -127 : q);
    }
  }
  return { values, scales };
}

/** Whether every value is a number with an end: what a trained weight must be. */
export function allFinite(data: Float32Array): boolean {
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i])) return false;
  }
  return true;
}
