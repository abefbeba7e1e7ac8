import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { convertCheckpoint, type ConvertOptions } from "../../src/convert/convert.ts";
import { fits, loadFamilies, parseFamily } from "../../src/convert/family.ts";
import { EngineError } from "../../src/errors.ts";
import { loadBundle } from "../../src/loader.ts";
import { encodeHeader } from "../../src/safetensors.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";

type Config = Readonly<Record<string, unknown>>;

/** Writes a checkpoint with a changed config.json and these further JSON files, and runs `body` beside it. */
async function withCheckpoint(
  change: { config?: Config; files?: Readonly<Record<string, unknown>> },
  body: (
    folder: string,
    convert: (options?: Partial<ConvertOptions>) => ReturnType<typeof convertCheckpoint>,
  ) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const source = `${folder}/source`;
    await writeCheckpoint(source, { shards: 1, config: change.config ?? {} });
    for (const [name, json] of Object.entries(change.files ?? {})) {
      await Deno.writeTextFile(`${source}/${name}`, JSON.stringify(json));
    }
    await body(
      folder,
      (options) =>
        convertCheckpoint({ source, target: `${folder}/target`, dtype: "q8", ...options }),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Expects a refusal that mentions `fact`, and that nothing but the source is left. */
async function refused(
  change: Parameters<typeof withCheckpoint>[0],
  fact: string,
  prepare: (source: string) => Promise<void> = async () => {},
): Promise<void> {
  await withCheckpoint(change, async (folder, convert) => {
    await prepare(`${folder}/source`);
    const error = await assertRejects(() => convert(), EngineError, fact);
    assertEquals(error.code, "checkpoint_unsupported");
    assertEquals([...Deno.readDirSync(folder)].map((entry) => entry.name), ["source"]);
  });
}

/** A safetensors file that holds one tensor of 64 F32 numbers. */
function oneTensor(name: string, value: number): Uint8Array {
  const header = encodeHeader([{ name, dtype: "F32", shape: [64] }]);
  const file = new Uint8Array(header.length + 256);
  file.set(header);
  file.set(new Uint8Array(new Float32Array(64).fill(value).buffer), header.length);
  return file;
}

/** Makes the checkpoint a sharded one whose second file is `extra`; `weightMap` adds to its index. */
async function addShard(source: string, extra: Uint8Array, weightMap: Record<string, string>) {
  await Deno.writeFile(`${source}/extra.safetensors`, extra);
  const bytes = await Deno.readFile(`${source}/model.safetensors`);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const names = Object.keys(JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))));
  const map = Object.fromEntries(names.map((name) => [name, "model.safetensors"]));
  await Deno.writeTextFile(
    `${source}/model.safetensors.index.json`,
    JSON.stringify({ weight_map: { ...map, ...weightMap } }),
  );
}

Deno.test("convert refuses facts that the runtime does not compute, wherever they are written", async () => {
  await refused(
    { files: { "generation_config.json": { use_sliding_window: true } } },
    "generation_config.json: use_sliding_window is true; a2d-qwen3 is supported with false",
  );
  await refused(
    { config: { layer_types: ["full_attention", "sliding_attention"] } },
    "layer_types",
  );
  await refused(
    { config: { rope_parameters: { rope_type: "yarn" } } },
    "rope_parameters.rope_type",
  );
  await refused({ config: { quantization_config: { bits: 4 } } }, "quantization_config");
});

Deno.test("convert refuses an unknown model before it looks for the other files", () =>
  refused(
    { config: { model_type: "other", architectures: ["Other"] } },
    "supported: a2d-qwen3",
    (source) => Deno.remove(`${source}/tokenizer.json`),
  ));

Deno.test("convert refuses a tensor that it would leave out, and names it", () =>
  refused({}, "has the tensor model.layers.0.self_attn.q_proj.bias", async (source) => {
    const name = "model.layers.0.self_attn.q_proj.bias";
    await addShard(source, oneTensor(name, 1), { [name]: "extra.safetensors" });
  }));

Deno.test("convert takes a tensor from the shard that the index names", () =>
  withCheckpoint({}, async (folder, convert) => {
    const before = await convert();
    // A stray copy of a norm, full of NaN, in a file that the index lists for another tensor only.
    const source = `${folder}/source`;
    await addShard(source, oneTensor("model.norm.weight", NaN), { "x": "extra.safetensors" });
    const index = JSON.parse(await Deno.readTextFile(`${source}/model.safetensors.index.json`));
    delete index.weight_map.x;
    await Deno.writeTextFile(`${source}/model.safetensors.index.json`, JSON.stringify(index));
    assertEquals((await convert({ force: true })).files.weights, before.files.weights);
  }));

Deno.test("convert names a tensor that holds NaN", () =>
  refused({}, "tensor model.norm.weight holds numbers that are not finite", async (source) => {
    const name = "model.norm.weight";
    await addShard(source, oneTensor(name, NaN), { [name]: "extra.safetensors" });
  }));

Deno.test("convert reads no file outside the checkpoint's folder", () =>
  refused({}, "../secret is no plain file name", (source) =>
    Deno.writeTextFile(
      `${source}/model.safetensors.index.json`,
      JSON.stringify({ weight_map: { x: "../secret" } }),
    )));

Deno.test("convert names a file that is missing or empty", async () => {
  await refused({}, "tokenizer.json", (source) => Deno.remove(`${source}/tokenizer.json`));
  await refused({}, "model.safetensors", (source) => Deno.remove(`${source}/model.safetensors`));
  await refused(
    {},
    "model.safetensors",
    (source) => Deno.writeFile(`${source}/model.safetensors`, new Uint8Array(3)),
  );
});

Deno.test("convert finds token ids by the texts of tokenizer_config.json", () =>
  withCheckpoint({
    config: { mask_token_id: undefined, eos_token_id: undefined },
    files: {
      "tokenizer.json": {
        added_tokens: [{ id: 7, content: "<|mask|>" }, { id: 9, content: "<|end|>" }],
      },
      "tokenizer_config.json": { mask_token: "<|mask|>", eos_token: { content: "<|end|>" } },
    },
  }, async (_, convert) => {
    const { mask, eos } = (await convert()).tokens;
    assertEquals([mask, eos], [7, [9]]);
  }));

Deno.test("convert names the end token when nothing tells it", () =>
  refused({ config: { eos_token_id: undefined } }, "eos_token_id"));

Deno.test("convert reads the newer spelling of the rotation, and defaults that configs leave out", () =>
  withCheckpoint({
    config: {
      rope_theta: undefined,
      rope_parameters: { rope_type: "default", rope_theta: 5000 },
      block_size: undefined,
    },
    files: { "generation_config.json": { sampler: "bd3lm" } },
  }, async (_, convert) => {
    const { architecture, blockLength } = await convert();
    assertEquals(architecture.ropeTheta, 5000);
    assertEquals(blockLength, { default: 32, trained: [32] });
  }));

Deno.test("convert takes a variant from the config or by name, and asks where neither tells", async () => {
  const untold = { config: { block_size: undefined } };
  await refused(untold, "no sampler, block_lengths, block_size); name it: --variant mdlm | bd3lm");
  await withCheckpoint(untold, async (_, convert) => {
    const { attention, cache, blockLength, defaults } = await convert({ variant: "mdlm" });
    assertEquals([attention, cache, blockLength], ["bidirectional", "none", { default: 32 }]);
    assertEquals(defaults, {
      unmasking: "low_confidence_static",
      transferSchedule: "linear",
    });
    assertEquals((await convert({ variant: "bd3lm", force: true })).attention, "block-causal");
    const error = await assertRejects(() => convert({ variant: "xyz", force: true }), EngineError);
    assertEquals([error.code, error.param], ["invalid_request", "variant"]);
  });
  const told = {
    files: { "generation_config.json": { sampler: "mdlm", right_shift_logits: true } },
  };
  await withCheckpoint(told, async (_, convert) => {
    const { attention, logitShift } = await convert(); // block_size would tell bd3lm
    assertEquals([attention, logitShift], ["bidirectional", 1]);
  });
});

Deno.test("convert does without tokenizer_config.json", () =>
  withCheckpoint({}, async (folder, convert) => {
    await Deno.remove(`${folder}/source/tokenizer_config.json`);
    await convert();
    assertEquals(await Deno.readTextFile(`${folder}/target/tokenizer_config.json`), "{}");
  }));

Deno.test("convert takes the chat template from where a checkpoint keeps it", async () => {
  const other = { name: "tool_use", template: "b" };
  const cases: [field: unknown, file: string | undefined, expected: string | undefined][] = [
    [undefined, undefined, undefined],
    [null, undefined, undefined],
    ["{{ 1 }}", undefined, "{{ 1 }}"],
    [[other, { name: "default", template: "a" }], undefined, "a"],
    [[other], undefined, undefined],
    ["field", "file\n", "file\n"],
    [undefined, "file", "file"],
    [7, "file", "file"],
  ];
  for (const [field, file, expected] of cases) {
    const files = { "tokenizer_config.json": { chat_template: field } };
    await withCheckpoint({ files }, async (folder, convert) => {
      if (file !== undefined) {
        await Deno.writeTextFile(`${folder}/source/chat_template.jinja`, file);
      }
      assertEquals((await convert()).chatTemplate, expected);
      const { manifest, tokenizerConfig } = await loadBundle(`${folder}/target`);
      assertEquals(manifest.chatTemplate, expected);
      assertEquals(tokenizerConfig, JSON.parse(JSON.stringify({ chat_template: field })));
    });
  }
});

Deno.test("convert refuses a chat template that is none, and names its place", async () => {
  const withField = (chat_template: unknown) => ({
    files: { "tokenizer_config.json": { chat_template } },
  });
  await refused(withField({}), "tokenizer_config.json: chat_template: must be a text or a list");
  await refused(withField("{% if %}"), "tokenizer_config.json: chat_template: ");
  await refused(withField("fine"), "chat_template.jinja: ", async (source) => {
    await Deno.writeTextFile(`${source}/chat_template.jinja`, "{{ 'open");
  });
  await refused({}, "chat_template.jinja", (source) => Deno.mkdir(`${source}/chat_template.jinja`));
});

Deno.test("convert leaves nothing when it is aborted in the middle", () =>
  withCheckpoint({}, async (folder, convert) => {
    const abort = new AbortController();
    const run = convert({
      signal: abort.signal,
      onProgress: ({ tensor }) => {
        if (tensor === "layers.1.k.weight") abort.abort(new EngineError("cancelled", "stop"));
      },
    });
    await assertRejects(() => run, EngineError, "stop");
    assertEquals([...Deno.readDirSync(folder)].map((entry) => entry.name), ["source"]);
  }));

Deno.test("convert names the bundle after the option, the recipe, or the folder", () =>
  withCheckpoint({}, async (_, convert) => {
    assertEquals((await convert()).name, "target");
    const recipe = { name: "from-recipe" };
    assertEquals((await convert({ force: true, recipe })).name, "from-recipe");
    assertEquals((await convert({ force: true, recipe, name: "asked" })).name, "asked");
    const wrong = [1] as unknown as string[]; // what a recipe file may hold
    const error = await assertRejects(
      () => convert({ force: true, recipe: { name: "x", samplePrompts: wrong } }),
      EngineError,
      "recipe: samplePrompts.0",
    );
    assertEquals(error.code, "invalid_request");
  }));

Deno.test("every family file is valid, and a mistake in one is named", async () => {
  const [family] = await loadFamilies();
  assert(family.modelType.length > 0);
  assertThrows(() => parseFamily({ ...family, extra: 1 }, "a.json"), TypeError, "a.json: extra");
  assert(fits("model.layers.12.mlp.up_proj.weight", ["model.layers.{i}.mlp.up_proj.weight"]));
  assert(!fits("model.layers.12.mlp.up_proj.bias", ["model.layers.{i}.mlp.up_proj.weight"]));
});
