/** One graph over one weights file on one backend, without a cache. */
import { type BackendName, type HostTensor, openBackend } from "../../src/backend/backend.ts";
import { GraphBuilder } from "../../src/graph/onnx.ts";
import { WeightLayout } from "../../src/graph/weights.ts";
import { parseSafetensors } from "../../src/safetensors.ts";

/**
 * Opens what `build` writes: a graph whose output is `y`, float32.
 *
 * @returns a call that runs it, and one that frees it
 */
export async function openGraph(
  name: BackendName,
  file: Uint8Array,
  build: (graph: GraphBuilder, layout: WeightLayout) => void,
) {
  const backend = await openBackend([name], { threads: 1, softwareAdapter: true });
  const layout = new WeightLayout(parseSafetensors(file, "weights.safetensors"), file, backend);
  const graph = new GraphBuilder("tested");
  build(graph, layout);
  const runner = await backend.open({
    model: graph.finish(),
    files: layout.externalFiles(),
    pastInputs: [],
    newOutputs: [],
    width: 1,
  });
  return {
    async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Float32Array> {
      const past = { slots: [], length: 0 };
      const { y } = await runner.run({ inputs, past, outputs: ["y"], append: [] });
      if (y.type !== "float32") throw new TypeError(y.type);
      return y.data;
    },
    close: () => runner.close(),
  };
}
