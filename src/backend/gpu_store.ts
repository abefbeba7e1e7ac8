/** Keys and values in GPU buffers: they never cross to the process. */
import type { Tensor, TensorConstructor } from "onnxruntime-common";
import type { KeyValueStore } from "./ort_runner.ts";

const FIRST_POSITIONS = 128;
const FLOAT_BYTES = 4;

/**
 * @param tensors how many tensors a slot has: keys and values of every layer
 * @param width elements of one position in one tensor
 */
export function gpuStore(
  Tensor: TensorConstructor,
  device: GPUDevice,
  tensors: number,
  width: number,
): KeyValueStore {
  const positionBytes = width * FLOAT_BYTES;
  /** per slot: one buffer [capacity, width] per tensor */
  const slots = new Map<number, GPUBuffer[]>();
  /** per tensor: where the pasts of a batch are put side by side */
  const staging: (GPUBuffer | undefined)[] = new Array(tensors);
  const makeBuffer = (size: number) =>
    device.createBuffer({
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
  const view = (buffer: GPUBuffer, dims: number[]): Tensor =>
    // ONNX Runtime types GPUBuffer by @webgpu/types, Deno by its own declaration of the same interface
    Tensor.fromGpuBuffer(buffer as never, { dataType: "float32", dims });
  const submit = (record: (encoder: GPUCommandEncoder) => void) => {
    const encoder = device.createCommandEncoder();
    record(encoder);
    device.queue.submit([encoder.finish()]);
  };
  return {
    past(index, ids, length) {
      const size = length * positionBytes;
      const only = ids.length === 1 ? slots.get(ids[0])?.[index] : undefined;
      if (only !== undefined && only.size >= size) return view(only, [1, length, width]);
      let joined = staging[index];
      if (joined === undefined || joined.size < ids.length * size) {
        joined?.destroy();
        staging[index] = joined = makeBuffer(ids.length * size);
      }
      const target = joined;
      submit((encoder) =>
        ids.forEach((id, row) => {
          const held = slots.get(id)?.[index];
          if (held === undefined) return; // padding: masked by its block number, whatever it holds
          encoder.copyBufferToBuffer(held, 0, target, row * size, Math.min(size, held.size));
        })
      );
      return view(target, [ids.length, length, width]);
    },
    append(index, source, row, slot, at, count) {
      const held = slots.get(slot)?.[index];
      if (held === undefined) throw new RangeError(`slot ${slot} was not reserved`);
      const from = row * source.dims[1] * positionBytes;
      submit((encoder) =>
        encoder.copyBufferToBuffer(
          source.gpuBuffer as unknown as GPUBuffer, // see view()
          from,
          held,
          at * positionBytes,
          count * positionBytes,
        )
      );
    },
    reserve(slot, positions) {
      const held = slots.get(slot);
      const capacity = held === undefined ? 0 : held[0].size / positionBytes;
      if (capacity >= positions) return;
      const wanted = Math.max(FIRST_POSITIONS, positions, capacity * 2);
      const grown = Array.from({ length: tensors }, () => makeBuffer(wanted * positionBytes));
      if (held !== undefined) {
        submit((encoder) =>
          held.forEach((old, i) => encoder.copyBufferToBuffer(old, 0, grown[i], 0, old.size))
        );
        held.forEach((old) => old.destroy());
      }
      slots.set(slot, grown);
    },
    release(slot) {
      slots.get(slot)?.forEach((buffer) => buffer.destroy());
      slots.delete(slot);
    },
    close() {
      for (const slot of [...slots.keys()]) this.release(slot);
      staging.forEach((buffer) => buffer?.destroy());
    },
  };
}
