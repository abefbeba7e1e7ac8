/** Keys and values in the memory of the process, for the CPU backends. */
import type { TensorConstructor } from "onnxruntime-common";
import { EngineError } from "../errors.ts";
import type { KeyValueStore } from "./ort_runner.ts";

const FIRST_POSITIONS = 128;

/**
 * @param tensors how many tensors a slot has: keys and values of every layer
 * @param width elements of one position in one tensor
 */
export function hostStore(
  Tensor: TensorConstructor,
  tensors: number,
  width: number,
): KeyValueStore {
  /** per slot: one array [capacity, width] per tensor */
  const slots = new Map<number, Float32Array[]>();
  return {
    past(index, ids, length) {
      const size = length * width;
      const only = ids.length === 1 ? slots.get(ids[0])?.[index] : undefined;
      if (only !== undefined && only.length >= size) {
        return new Tensor("float32", only.subarray(0, size), [1, length, width]);
      }
      const joined = new Float32Array(ids.length * size);
      ids.forEach((id, row) => {
        const held = slots.get(id)?.[index];
        if (held !== undefined) joined.set(held.subarray(0, size), row * size);
      });
      return new Tensor("float32", joined, [ids.length, length, width]);
    },
    append(index, source, row, slot, at, count) {
      const held = slots.get(slot)?.[index];
      const { data, dims } = source;
      if (held === undefined || !(data instanceof Float32Array)) {
        throw new EngineError("backend_failed", `slot ${slot} cannot take ${source.type}`);
      }
      const from = row * dims[1] * width;
      held.set(data.subarray(from, from + count * width), at * width);
    },
    reserve(slot, positions) {
      const held = slots.get(slot);
      const capacity = held === undefined ? 0 : held[0].length / width;
      if (capacity >= positions) return;
      const wanted = Math.max(FIRST_POSITIONS, positions, capacity * 2);
      slots.set(
        slot,
        Array.from({ length: tensors }, (_, index) => {
          const grown = new Float32Array(wanted * width);
          if (held !== undefined) grown.set(held[index]);
          return grown;
        }),
      );
    },
    release: (slot) => void slots.delete(slot),
    close: () => slots.clear(),
  };
}
