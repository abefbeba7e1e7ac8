/**
 * Any bundle as float32: what its stored weights stand for, without the rounding of activations that a backend may add. The
 * arithmetic is written a second time, element by element, so that it can be a reference for src/graph/storage.ts.
 */
import { createHash } from "node:crypto";
import type { Bundle } from "../../src/loader.ts";
import { encodeHeader, parseSafetensors, type TensorInfo } from "../../src/safetensors.ts";

/** The fp32 bundle that holds the dequantised weights of `bundle`. */
export function dequantizedBundle(bundle: Bundle): Bundle {
  const { tensors } = parseSafetensors(bundle.weights, "weights.safetensors");
  const names = [...tensors.keys()].filter((name) => !/\.(scales|zeros)$/.test(name));
  const dense = names.map((name) => denseTensor(bundle.weights, tensors, name));
  const header = encodeHeader(dense.map(({ name, shape }) => ({ name, dtype: "F32", shape })));
  const weights = new Uint8Array(dense.reduce((sum, t) => sum + t.data.byteLength, header.length));
  weights.set(header);
  let at = header.length;
  for (const { data } of dense) {
    weights.set(new Uint8Array(data.buffer), at);
    at += data.byteLength;
  }
  const sha256 = createHash("sha256").update(weights).digest("hex");
  const files = {
    ...bundle.manifest.files,
    weights: { ...bundle.manifest.files.weights, bytes: weights.length, sha256 },
  };
  return { ...bundle, weights, manifest: { ...bundle.manifest, dtype: "fp32", files } };
}

/** One tensor as float32, a matrix as [N, K]. */
export function denseTensor(
  file: Uint8Array,
  tensors: ReadonlyMap<string, TensorInfo>,
  name: string,
): { readonly name: string; readonly shape: readonly number[]; readonly data: Float32Array } {
  const view = (part: string) => {
    const info = tensors.get(name.replace(/weight$/, part));
    if (info === undefined) throw new Error(`no tensor ${name} of ${part}`);
    return new DataView(file.buffer, file.byteOffset + info.offset, info.length);
  };
  const { dtype, shape } = tensors.get(name)!;
  const values = view("weight");
  const fill = (shape: readonly number[], element: (i: number) => number) => {
    const length = shape.reduce((a, b) => a * b);
    return { name, shape, data: Float32Array.from({ length }, (_, i) => element(i)) };
  };
  if (dtype === "F32") return fill(shape, (i) => values.getFloat32(4 * i, true));
  if (dtype === "F16") return fill(shape, (i) => values.getFloat16(2 * i, true));
  const scales = view("scales");
  const scale = (index: number) => scales.getFloat32(4 * index, true);
  const [rows, blocks, bytes] = shape;
  if (bytes === undefined) { // w8a8: a scale for each row
    return fill(shape, (i) => (values.getUint8(i) - 128) * scale(Math.floor(i / blocks)));
  }
  const matrix = [rows, blocks * 32];
  if (bytes === 32) {
    return fill(matrix, (i) => (values.getUint8(i) - 128) * scale(Math.floor(i / 32)));
  }
  const zeros = view("zeros");
  const half = (of: DataView, at: number) =>
    at % 2 === 0 ? of.getUint8(at / 2) & 15 : of.getUint8((at - 1) / 2) >> 4;
  return fill(matrix, (i) => {
    const block = Math.floor(i / 32);
    return (half(values, i) - half(zeros, block)) * scale(block);
  });
}
