/** Small checkpoints in Hugging Face layout, made for tests. */
import { convertCheckpoint } from "../../src/convert/convert.ts";
import type { Precision } from "../../src/convert/precision.ts";
import { type Bundle, loadBundle } from "../../src/loader.ts";
import type { Dtype } from "../../src/manifest.ts";
import { randomFrom } from "../../src/random.ts";
import { encodeHeader } from "../../src/safetensors.ts";

/** tokenizer.json of a checkpoint whose text nobody reads. */
export const TOKENIZER = {
  version: "1.0",
  added_tokens: [{ id: 0, content: "<|endoftext|>", special: true }],
  model: { type: "BPE", vocab: { "<|endoftext|>": 0 }, merges: [] },
};

/**
 * Writes an a2d-qwen3 checkpoint with random F32 weights: 2 layers, 4 / 2 heads of 16, ffn 96, 320 tokens unless
 * told otherwise.
 *
 * @param options.config changes of config.json; `undefined` removes a field
 */
export async function writeCheckpoint(
  folder: string,
  options: {
    readonly shards: number;
    readonly hidden?: number;
    readonly vocab?: number;
    readonly layers?: number;
    readonly heads?: number;
    readonly kvHeads?: number;
    readonly headDim?: number;
    readonly ffn?: number;
    readonly config?: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  const { hidden = 64, vocab = 320, layers = 2, heads = 4, kvHeads = 2, headDim = 16, ffn = 96 } =
    options;
  const config = {
    architectures: ["A2DQwen3LMHeadModel"],
    model_type: "a2d-qwen3",
    vocab_size: vocab,
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    intermediate_size: ffn,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    max_position_embeddings: 256,
    tie_word_embeddings: true,
    attention_bias: false,
    mask_token_id: 2,
    eos_token_id: 0,
    block_size: 8,
    ...options.config,
  };
  const q = heads * headDim, kv = kvHeads * headDim;
  const layer = (i: number): [string, number[]][] => [
    [`model.layers.${i}.input_layernorm.weight`, [hidden]],
    [`model.layers.${i}.post_attention_layernorm.weight`, [hidden]],
    [`model.layers.${i}.self_attn.q_proj.weight`, [q, hidden]],
    [`model.layers.${i}.self_attn.k_proj.weight`, [kv, hidden]],
    [`model.layers.${i}.self_attn.v_proj.weight`, [kv, hidden]],
    [`model.layers.${i}.self_attn.o_proj.weight`, [hidden, q]],
    [`model.layers.${i}.self_attn.q_norm.weight`, [headDim]],
    [`model.layers.${i}.self_attn.k_norm.weight`, [headDim]],
    [`model.layers.${i}.mlp.gate_proj.weight`, [ffn, hidden]],
    [`model.layers.${i}.mlp.up_proj.weight`, [ffn, hidden]],
    [`model.layers.${i}.mlp.down_proj.weight`, [hidden, ffn]],
  ];
  const tensors: [string, number[]][] = [
    ["model.embed_tokens.weight", [vocab, hidden]],
    ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
    ["model.norm.weight", [hidden]],
  ];
  const random = randomFrom(11);
  const data = tensors.map(([, shape]) =>
    new Float32Array(shape.reduce((a, b) => a * b)).map(() => random() - 0.5)
  );
  await Deno.mkdir(folder, { recursive: true });
  const json = (name: string, value: unknown) =>
    Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value));
  await json("config.json", config);
  await json("tokenizer.json", TOKENIZER);
  await json("tokenizer_config.json", { tokenizer_class: "PreTrainedTokenizerFast" });
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < options.shards; shard++) {
    const name = options.shards === 1
      ? "model.safetensors"
      : `model-${shard + 1}-of-${options.shards}.safetensors`;
    const mine = tensors.map((_, i) => i).filter((i) => i % options.shards === shard);
    for (const i of mine) weightMap[tensors[i][0]] = name;
    const header = encodeHeader(mine.map((i) => {
      const [tensor, shape] = tensors[i];
      return { name: tensor, dtype: "F32" as const, shape };
    }));
    const parts = [header, ...mine.map((i) => new Uint8Array(data[i].buffer))];
    const file = await Deno.open(`${folder}/${name}`, { write: true, createNew: true });
    const writer = file.writable.getWriter();
    for (const part of parts) await writer.write(part);
    await writer.close();
  }
  if (options.shards > 1) await json("model.safetensors.index.json", { weight_map: weightMap });
}

/** The float32 bundle of the checkpoint that `fill` puts into a folder. */
export function floatBundleOf(fill: (folder: string) => Promise<void>): Promise<Bundle> {
  return convertedBundle(fill, "fp32");
}

/** The bundle of the checkpoint that `fill` puts into a folder; `precision` counts before its family's. */
export async function convertedBundle(
  fill: (folder: string) => Promise<void>,
  dtype: Dtype,
  precision: Precision = {},
): Promise<Bundle> {
  const folder = await Deno.makeTempDir();
  try {
    await fill(`${folder}/source`);
    await convertCheckpoint({
      source: `${folder}/source`,
      target: `${folder}/bundle`,
      dtype,
      recipe: { name: "bundle", precision },
    });
    return await loadBundle(`${folder}/bundle`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Copies a checkpoint that has no tokenizer of its own and gives it a placeholder. */
export async function copyCheckpoint(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for (const name of ["config.json", "generation_config.json", "model.safetensors"]) {
    await Deno.copyFile(`${from}/${name}`, `${to}/${name}`);
  }
  await Deno.writeTextFile(`${to}/tokenizer.json`, JSON.stringify(TOKENIZER));
  await Deno.writeTextFile(`${to}/tokenizer_config.json`, "{}");
}
