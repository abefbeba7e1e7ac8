/** What a backend is: something that runs one ONNX graph and keeps the keys and values of cached positions beside it. */
import { EngineError, messageOf } from "../errors.ts";
import type { ExternalFile, MatrixForms } from "../graph/weights.ts";

/** The backends by name. */
export const BACKENDS = ["webgpu", "wasm", "native"] as const;
export type BackendName = typeof BACKENDS[number];

/** A tensor in the memory of the process. */
export type HostTensor =
  | { readonly type: "float32"; readonly dims: readonly number[]; readonly data: Float32Array }
  | { readonly type: "int32"; readonly dims: readonly number[]; readonly data: Int32Array }
  | { readonly type: "int64"; readonly dims: readonly number[]; readonly data: BigInt64Array };

/** One pass through the graph. */
export interface RunStep {
  readonly inputs: Readonly<Record<string, HostTensor>>;
  /** Slots whose cached positions 0 … `length` (padded where a slot holds fewer) are the past, one per batch row. */
  readonly past: { readonly slots: readonly number[]; readonly length: number };
  /** Names of the outputs to bring back. */
  readonly outputs: readonly string[];
  /** New positions 0 … `count` of batch row `row` to keep: they become positions `at` … of `slot`. */
  readonly append: readonly {
    readonly row: number;
    readonly slot: number;
    readonly at: number;
    readonly count: number;
  }[];
}

/** A graph that is ready to run. Not reentrant: one `run` at a time. */
export interface Runner {
  /** Resolves to the asked outputs; keeps what `append` says. */
  run(step: RunStep): Promise<Readonly<Record<string, HostTensor>>>;
  /** Frees the memory of a slot. */
  release(slot: number): void;
  close(): Promise<void>;
}

/** Everything that a runner is made from. */
export interface RunnerPlan {
  readonly model: Uint8Array;
  readonly files: readonly ExternalFile[];
  /** Graph inputs that take the past, float32 [B, P, width], and the outputs that extend them, pairwise. */
  readonly pastInputs: readonly string[];
  readonly newOutputs: readonly string[];
  readonly width: number;
}

/** One way to run graphs. */
export interface Backend {
  readonly name: BackendName;
  /** What it runs on, for people: "2 threads", an adapter's name. */
  readonly description: string;
  readonly matrixForms: MatrixForms;
  /** Whether quantised experts can run in QMoE, which reads only the chosen ones; else all are computed. */
  readonly fusedExperts: boolean;
  /** `accuracy_level` of MatMulNBits. */
  readonly accuracyLevel: number;
  /** Sequences that one pass serves well. */
  readonly batch: number;
  open(plan: RunnerPlan): Promise<Runner>;
}

/** How a backend is to be opened. */
export interface BackendOptions {
  /** Threads of a CPU backend. */
  readonly threads: number;
  /** Whether WebGPU may run on a software adapter. */
  readonly softwareAdapter: boolean;
}

const OPENERS: Readonly<Record<BackendName, (options: BackendOptions) => Promise<Backend>>> = {
  webgpu: async (options) => (await import("./webgpu.ts")).openWebGpu(options),
  wasm: async (options) => (await import("./wasm.ts")).openWasm(options),
  native: async (options) => (await import("./native.ts")).openNative(options),
};

/**
 * The first backend of `names` that this machine has.
 *
 * @throws {EngineError} `backend_unavailable`, with the reason of each
 */
export async function openBackend(
  names: readonly BackendName[],
  options: BackendOptions,
): Promise<Backend> {
  const reasons: string[] = [];
  for (const name of names) {
    try {
      return await OPENERS[name](options);
    } catch (error) {
      reasons.push(`${name}: ${messageOf(error)}`);
    }
  }
  throw new EngineError("backend_unavailable", `no backend can run here (${reasons.join("; ")})`);
}
