/** A Runner over the ONNX Runtime JavaScript API, which WASM, WebGPU and native share. */
import type { InferenceSession, Tensor, TensorConstructor } from "onnxruntime-common";
import { EngineError, messageOf } from "../errors.ts";
import type { HostTensor, Runner, RunnerPlan, RunStep } from "./backend.ts";

/** The parts of an ONNX Runtime build that a runner uses. */
export interface Ort {
  readonly InferenceSession: {
    create(model: Uint8Array, options: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: TensorConstructor;
}

/** Where keys and values lie between passes. One store holds every slot; only its runner writes to it. */
export interface KeyValueStore {
  /** Cached positions 0 … length of each slot, as one tensor [B, length, width]. */
  past(index: number, slots: readonly number[], length: number): Tensor;
  /** Keeps rows 0 … count of batch row `row` of `source` [B, L, width] as positions `at` … of `slot`. */
  append(index: number, source: Tensor, row: number, slot: number, at: number, count: number): void;
  /** Makes room for `positions` in `slot`. */
  reserve(slot: number, positions: number): void;
  release(slot: number): void;
  close(): void;
}

/** Creates a session for `plan` and wraps it. */
export async function openOrtRunner(
  ort: Ort,
  plan: RunnerPlan,
  options: InferenceSession.SessionOptions,
  store: KeyValueStore,
): Promise<Runner> {
  let session: InferenceSession;
  try {
    session = await ort.InferenceSession.create(plan.model, {
      ...options,
      externalData: plan.files.map(({ path, data }) => ({ path, data })),
    });
  } catch (cause) {
    throw new EngineError("backend_failed", `creating the session: ${messageOf(cause)}`, { cause });
  }
  return {
    run: (step) => run(ort, session, plan, store, step),
    release: (slot) => store.release(slot),
    close: async () => {
      store.close();
      await session.release();
    },
  };
}

async function run(
  ort: Ort,
  session: InferenceSession,
  plan: RunnerPlan,
  store: KeyValueStore,
  step: RunStep,
): Promise<Record<string, HostTensor>> {
  const feeds: Record<string, Tensor> = {};
  for (const [name, tensor] of Object.entries(step.inputs)) {
    feeds[name] = toTensor(ort, tensor);
  }
  plan.pastInputs.forEach((name, index) => {
    feeds[name] = store.past(index, step.past.slots, step.past.length);
  });
  const keeps = step.append.length > 0;
  const results = await session.run(feeds, [...step.outputs, ...(keeps ? plan.newOutputs : [])]);
  for (const { row, slot, at, count } of step.append) {
    store.reserve(slot, at + count);
    plan.newOutputs.forEach((name, index) => {
      store.append(index, results[name], row, slot, at, count);
    });
  }
  const outputs: Record<string, HostTensor> = {};
  for (const name of step.outputs) outputs[name] = toHost(name, results[name]);
  for (const tensor of Object.values(results)) tensor.dispose();
  return outputs;
}

function toTensor(ort: Ort, tensor: HostTensor): Tensor {
  // one constructor call per element type: the overloads do not accept the union
  switch (tensor.type) {
    case "float32":
      return new ort.Tensor(tensor.type, tensor.data, tensor.dims);
    case "int32":
      return new ort.Tensor(tensor.type, tensor.data, tensor.dims);
    case "int64":
      return new ort.Tensor(tensor.type, tensor.data, tensor.dims);
  }
}

function toHost(name: string, { type, dims, data }: Tensor): HostTensor {
  if (type === "float32" && data instanceof Float32Array) return { type, dims, data };
  if (type === "int64" && data instanceof BigInt64Array) return { type, dims, data };
  throw new EngineError("backend_failed", `output ${name} came back as ${type}`);
}
