/** ONNX Runtime in WebAssembly: runs anywhere. */
import type { Backend, BackendOptions } from "./backend.ts";
import { hostStore } from "./host_store.ts";
import { openOrtRunner, type Ort } from "./ort_runner.ts";

/** Opens the WebAssembly build with `options.threads` threads. */
export async function openWasm({ threads }: BackendOptions): Promise<Backend> {
  const ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return {
    name: "wasm",
    description: `WebAssembly, ${threads} thread${threads === 1 ? "" : "s"}`,
    // this build has no fast kernel for blocks: see tests/bench
    matrixForms: { q4: "dequantized", q8: "dequantized", w8a8: "integer" },
    fusedExperts: true,
    accuracyLevel: 0,
    batch: 4,
    open: (plan) =>
      openOrtRunner(
        ort as Ort, // the module has more than the part we name
        plan,
        {
          executionProviders: ["wasm"],
          extra: { session: { intra_op: { allow_spinning: "0" } } },
        },
        hostStore(ort.Tensor, plan.pastInputs.length, plan.width),
      ),
  };
}
