/** ONNX Runtime's WebGPU execution provider on a device of our own. */
import { EngineError } from "../errors.ts";
import type { Backend, BackendOptions } from "./backend.ts";
import { gpuStore } from "./gpu_store.ts";
import { openOrtRunner, type Ort } from "./ort_runner.ts";

/**
 * Opens the best adapter.
 *
 * @throws {EngineError} `backend_unavailable` where there is none, or only a software one and that was not asked for
 */
export async function openWebGpu({ softwareAdapter }: BackendOptions): Promise<Backend> {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new EngineError("backend_unavailable", "no WebGPU adapter");
  const { info, limits } = adapter;
  const label = info.description || info.device || info.vendor || "unnamed adapter";
  const software = info.isFallbackAdapter || /llvmpipe|lavapipe|swiftshader|software/i.test(label);
  if (software && !softwareAdapter) {
    throw new EngineError("backend_unavailable", `only a software adapter (${label})`);
  }
  const features = (["shader-f16", "subgroups"] as GPUFeatureName[])
    .filter((feature) => adapter.features.has(feature));
  const device = await adapter.requestDevice({
    requiredFeatures: features,
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
      maxComputeWorkgroupSizeY: limits.maxComputeWorkgroupSizeY,
      maxComputeWorkgroupSizeZ: limits.maxComputeWorkgroupSizeZ,
    },
  });
  // In a Worker the runtime resolves its parts against `location`, which has no usable base there.
  if (globalThis.location !== undefined && !("document" in globalThis)) {
    Object.defineProperty(globalThis, "location", { value: undefined, configurable: true });
  }
  const ort = await import("onnxruntime-web/webgpu");
  ort.env.logLevel = "error";
  return {
    name: "webgpu",
    description: `WebGPU, ${label}${software ? " (software)" : ""}`,
    matrixForms: { q4: "blockwise", q8: "blockwise", w8a8: "blockwise" },
    // QMoE clears its counts in one workgroup while others count already: wrong with several tokens (1.30)
    fusedExperts: false,
    accuracyLevel: 0,
    batch: 8,
    open: async (plan) => {
      const runner = await openOrtRunner(
        ort as unknown as Ort, // the module has more than the part we name
        plan,
        {
          logSeverityLevel: 3, // where each node runs is no news
          executionProviders: [{ name: "webgpu", device } as never], // option known at run time only
          preferredOutputLocation: Object.fromEntries(
            plan.newOutputs.map((name) => [name, "gpu-buffer" as const]),
          ),
        },
        gpuStore(ort.Tensor, device, plan.pastInputs.length, plan.width),
      );
      return {
        ...runner,
        close: async () => {
          await runner.close();
          device.destroy();
        },
      };
    },
  };
}
