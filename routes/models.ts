/** GET /v1/models: the loaded model, in the shape of OpenAI's list with the facts that a client needs added. */
import type { Handler } from "hono";
import type { Engine } from "../src/mod.ts";
import { snakeCase } from "./names.ts";

export function modelsRoute(engine: Engine): Handler {
  const created = Math.floor(Date.now() / 1000); // when it was loaded: a bundle carries no date
  return (c) => {
    const { name, architecture, blockLength, dtype, infill, samplePrompts, defaults } =
      engine.manifest;
    return c.json({
      object: "list",
      data: [{
        id: name,
        object: "model",
        created,
        owned_by: "cinnabar",
        context_length: architecture.contextLength,
        vocabulary_size: architecture.vocabSize,
        block_length: blockLength.default,
        block_lengths: blockLength.trained ?? null, // null: any
        defaults: Object.fromEntries(
          Object.entries(defaults).map(([option, value]) => [snakeCase(option), value]),
        ),
        dtype,
        backend: engine.session.backend,
        device: engine.session.description,
        infill: infill !== undefined,
        sample_prompts: samplePrompts,
      }],
    });
  };
}
