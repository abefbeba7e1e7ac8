/** ONNX Runtime's native CPU build (onnxruntime-node): optional, loaded only when asked for. */
import type { Backend, BackendOptions } from "./backend.ts";
import { hostStore } from "./host_store.ts";
import { openOrtRunner, type Ort } from "./ort_runner.ts";

/** Opens the native build with `options.threads` threads. */
export async function openNative({ threads }: BackendOptions): Promise<Backend> {
  // Not a literal, so that nobody downloads the package who does not ask for this backend.
  const specifier = "Deno" in globalThis ? "npm:onnxruntime-node@1.30.0" : "onnxruntime-node";
  // The package wants to pass Float16Array through its C++ layer, which Deno's N-API lacks.
  delete (globalThis as { Float16Array?: unknown }).Float16Array;
  const module: { default?: Ort } & Partial<Ort> = await import(specifier);
  const ort = (module.default ?? module) as Ort; // CommonJS under Deno and Bun, named exports elsewhere
  return {
    name: "native",
    description: `native CPU, ${threads} thread${threads === 1 ? "" : "s"}`,
    matrixForms: { q4: "blockwise", q8: "blockwise", w8a8: "integer" },
    fusedExperts: true,
    accuracyLevel: 4,
    batch: 4,
    open: (plan) =>
      openOrtRunner(
        ort,
        plan,
        {
          executionProviders: ["cpu"],
          intraOpNumThreads: threads,
          extra: { session: { intra_op: { allow_spinning: "0" } } },
        },
        hostStore(ort.Tensor, plan.pastInputs.length, plan.width),
      ),
  };
}
