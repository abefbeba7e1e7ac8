/** Float32 to float16. */
import { ROUNDER } from "./quantize.ts";

/** Bits of a float32: the smallest normal float16, and what 2^-112 adds to the exponent. */
const SMALLEST_NORMAL = 0x38800000, REBIAS = 112 << 23;
const INFINITY = 0x7c00;

/**
 * IEEE 754 binary16 bits of finite numbers, rounded half to even, subnormals included; what float16 cannot hold (65,520 and
 * more) becomes an infinity.
 *
 * @example
 * ```ts
 * import { toFloat16 } from "./half.ts";
 * if (toFloat16(Float32Array.of(1, -2, 70000)).join() !== "15360,49152,31744") throw new Error();
 * ```
 */
export function toFloat16(numbers: Float32Array): Uint16Array {
  const words = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length);
  const halves = new Uint16Array(numbers.length);
  for (let i = 0; i < numbers.length; i++) {
    const sign = (words[i] >>> 16) & 0x8000, size = words[i] & 0x7fffffff;
    const half = size < SMALLEST_NORMAL
      ? (Math.abs(numbers[i]) * 2 ** 24 + ROUNDER) - ROUNDER
      : (size - REBIAS + 0xfff + ((size >>> 13) & 1)) >>> 13;
    halves[i] = sign | (half < INFINITY ? half : INFINITY);
  }
  return halves;
}
