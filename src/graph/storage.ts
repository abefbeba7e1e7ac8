/**
 * The storage forms of a matrix [N, K]: which tensors of the weights file hold it, and what float32 matrix they stand for.
 *
 * | form | NAME.weight              | NAME.scales     | NAME.zeros        |
 * | ---- | ------------------------ | --------------- | ----------------- |
 * | q4   | U8 [N, K / 32, 16]       | F32 [N, K / 32] | U8 [N, K / 64]    |
 * | q8   | U8 [N, K / 32, 32]       | F32 [N, K / 32] |                   |
 * | w8a8 | U8 [N, K]                | F32 [N]         |                   |
 * | fp16 | F16 [N, K]               |                 |                   |
 * | fp32 | F32 [N, K]               |                 |                   |
 *
 * q8 and w8a8 hold value + 128. q4 holds level + zero, two to a byte, low half first, and so do the zeros of two blocks.
 * The form of a matrix is read from its type and shape, so that a bundle may mix forms.
 */
import { EngineError } from "../errors.ts";
import type { Dtype } from "../manifest.ts";
import { type SafetensorsDtype, tensorBytes, type TensorInfo } from "../safetensors.ts";

/** Elements that share one scale in a block-wise form. */
export const QUANTIZATION_BLOCK = 32;
/** Added to a signed 8-bit weight on disk. */
export const ZERO_POINT = 128;

/** One tensor of the weights file. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

/** The tensors that hold the matrix `name` (without ".weight") in a form, in the order of the file. */
export function storedTensors(
  name: string,
  form: Dtype,
  [rows, columns]: readonly [number, number],
): StoredTensor[] {
  const blocks = columns / QUANTIZATION_BLOCK;
  const weight = (dtype: SafetensorsDtype, ...shape: number[]): StoredTensor => (
    { name: `${name}.weight`, dtype, shape }
  );
  const scales = (...shape: number[]): StoredTensor => (
    { name: `${name}.scales`, dtype: "F32", shape }
  );
  switch (form) {
    case "q4":
      return [
        weight("U8", rows, blocks, QUANTIZATION_BLOCK / 2),
        scales(rows, blocks),
        { name: `${name}.zeros`, dtype: "U8", shape: [rows, blocks / 2] },
      ];
    case "q8":
      return [weight("U8", rows, blocks, QUANTIZATION_BLOCK), scales(rows, blocks)];
    case "w8a8":
      return [weight("U8", rows, columns), scales(rows)];
    case "fp16":
      return [weight("F16", rows, columns)];
    case "fp32":
      return [weight("F32", rows, columns)];
  }
}

/**
 * The form in which a matrix is stored where `wanted` is asked for: what does not divide into whole blocks (for q4, whole
 * pairs of blocks, as WebGPU's kernel for the embedding needs) or into whole 4-byte words (the tensors of a file follow each
 * other, and float32 ones must stay aligned) is q8 instead of q4, else fp32.
 */
export function storedForm(wanted: Dtype, shape: readonly [number, number]): Dtype {
  const divisor = {
    q4: 2 * QUANTIZATION_BLOCK,
    q8: QUANTIZATION_BLOCK,
    w8a8: QUANTIZATION_BLOCK,
    fp16: 1,
    fp32: 1,
  };
  const fits = shape[1] % divisor[wanted] === 0 &&
    storedTensors("", wanted, shape).every((t) => tensorBytes(t.dtype, t.shape) % 4 === 0);
  if (fits) return wanted;
  return wanted === "q4" ? storedForm("q8", shape) : "fp32";
}

/** Form and shape [N, K] of the matrix whose `NAME.weight` is `info`. */
export function formOf(
  name: string,
  { dtype, shape }: TensorInfo,
): { readonly form: Dtype; readonly shape: readonly [number, number] } {
  const [rows, columns, last] = shape;
  if (dtype === "U8" && shape.length === 3) {
    if (last === QUANTIZATION_BLOCK / 2) {
      return { form: "q4", shape: [rows, columns * QUANTIZATION_BLOCK] };
    }
    if (last === QUANTIZATION_BLOCK) return { form: "q8", shape: [rows, columns * last] };
  }
  if (shape.length === 2) {
    if (dtype === "U8") return { form: "w8a8", shape: [rows, columns] };
    if (dtype === "F16") return { form: "fp16", shape: [rows, columns] };
    if (dtype === "F32") return { form: "fp32", shape: [rows, columns] };
  }
  throw new EngineError(
    "bundle_invalid",
    `the weights file has ${name}.weight as ${dtype} [${shape}], which is no storage form`,
  );
}

/**
 * The float32 matrix of an 8-bit one.
 *
 * @param values U8, value + 128, row-major
 * @param scales F32, each of as many values as their numbers give: a block (q8) or a row (w8a8)
 */
export function dequantize8(values: Uint8Array, scales: Float32Array): Float32Array {
  const run = values.length / scales.length;
  const out = new Float32Array(values.length);
  for (let b = 0; b < scales.length; b++) {
    const scale = scales[b];
    for (let j = b * run; j < (b + 1) * run; j++) out[j] = (values[j] - ZERO_POINT) * scale;
  }
  return out;
}

/**
 * The float32 matrix of a q4 one.
 *
 * @param values U8 [N, K / 32, 16]
 * @param scales F32 [N, K / 32]
 * @param zeros U8 [N, K / 64]
 */
export function dequantize4(
  values: Uint8Array,
  scales: Float32Array,
  zeros: Uint8Array,
): Float32Array {
  const bytesPerBlock = QUANTIZATION_BLOCK / 2;
  const out = new Float32Array(values.length * 2);
  for (let b = 0; b < scales.length; b++) {
    const pair = zeros[b >> 1], scale = scales[b];
    const zero = b % 2 === 0 ? pair & 15 : pair >> 4;
    for (let j = b * bytesPerBlock; j < (b + 1) * bytesPerBlock; j++) {
      out[2 * j] = ((values[j] & 15) - zero) * scale;
      out[2 * j + 1] = ((values[j] >> 4) - zero) * scale;
    }
  }
  return out;
}
