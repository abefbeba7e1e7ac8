/**
 * A small seeded generator of uniform numbers in [0, 1) (mulberry32: 32 bits of state). Each sequence owns one, so its text
 * does not depend on what runs beside it.
 *
 * @example
 * ```ts
 * import { randomFrom } from "./random.ts";
 * if (randomFrom(7)() !== randomFrom(7)()) throw new Error("same seed, same numbers");
 * ```
 */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
