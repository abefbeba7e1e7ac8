/** From float32 rows to the bytes of each storage form. */
import { EngineError } from "../errors.ts";
import type { Dtype } from "../manifest.ts";
import { toFloat16 } from "./half.ts";
import { quantize } from "./quantize.ts";
import { quantize4 } from "./quantize_q4.ts";

/** Whole rows of one matrix. */
export interface Rows {
  readonly weights: Float32Array;
  /** Length of a row. */
  readonly columns: number;
  /** The checkpoint's tensor, for errors. */
  readonly source: string;
}

type Bytes = Float32Array | Uint16Array | Uint8Array;

/**
 * What each form writes for some rows: one array for each tensor of `storedTensors()`, in its order. Rows do not depend on
 * each other, so that a matrix can be written piece by piece.
 *
 * @throws {EngineError} `checkpoint_unsupported` where the form cannot hold a number
 */
export const ENCODERS: Readonly<Record<Dtype, (rows: Rows) => readonly Bytes[]>> = {
  q4: ({ weights }) => {
    const { values, scales, zeros } = quantize4(weights);
    return [values, scales, zeros];
  },
  q8: ({ weights }) => {
    const { values, scales } = quantize(weights);
    return [values, scales];
  },
  w8a8: ({ weights, columns }) => {
    const { values, scales } = quantize(weights, columns);
    return [values, scales];
  },
  fp16: ({ weights, source }) => {
    const halves = toFloat16(weights);
    const tooLarge = halves.findIndex((half) => (half & 0x7fff) === 0x7c00);
    if (tooLarge >= 0) {
      throw new EngineError(
        "checkpoint_unsupported",
        `tensor ${source} holds ${weights[tooLarge]}, and fp16 ends at 65504; use q8 or fp32`,
        { param: "dtype" },
      );
    }
    return [halves];
  },
  fp32: ({ weights }) => [weights],
};
