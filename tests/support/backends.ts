/** Which backends this machine can test. */
import type { BackendName } from "../../src/backend/backend.ts";

/** A backend, whether it can run here, and what it would take. */
export interface TestBackend {
  readonly name: BackendName;
  readonly ok: boolean;
  readonly why: string;
}

/** All backends; WebGPU counts on any adapter, a software one too. */
export async function testBackends(): Promise<TestBackend[]> {
  const adapter = await navigator.gpu?.requestAdapter();
  return [
    { name: "wasm", ok: true, why: "" },
    {
      name: "native",
      ok: await importable("npm:onnxruntime-node@1.30.0"),
      why: "no onnxruntime-node",
    },
    {
      name: "webgpu",
      ok: Boolean(adapter),
      why: "no WebGPU adapter; Debian's mesa-vulkan-drivers has a software one",
    },
  ];
}

async function importable(specifier: string): Promise<boolean> {
  try {
    await import(specifier);
    return true;
  } catch {
    return false;
  }
}
