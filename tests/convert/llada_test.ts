/** LLaDA with and without biases, tied and untied, and LLaDA-MoE, against their definitions in plain loops. */
import { assert } from "@std/assert";
import { randomFrom } from "../../src/random.ts";
import { encodeHeader } from "../../src/safetensors.ts";
import { openSession } from "../../src/session.ts";
import { floatBundleOf, TOKENIZER } from "../support/checkpoint.ts";
import { forwardNaively, type NaiveCheckpoint } from "../support/naive_llada.ts";
import { wholeLogits } from "../support/whole_logits.ts";

const CONFIG = {
  architectures: ["LLaDAModelLM"],
  model_type: "llada",
  activation_type: "silu",
  d_model: 64,
  n_layers: 2,
  n_heads: 4,
  n_kv_heads: 2,
  mlp_hidden_size: 96,
  vocab_size: 120,
  embedding_size: 120,
  max_sequence_length: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  mask_token_id: 7,
  eos_token_id: 3,
};

/** Which parts have a bias, by the checkpoint's flags. */
const BIASED: Readonly<Record<string, readonly string[]>> = {
  none: [],
  include_qkv_bias: ["q_proj", "k_proj", "v_proj"],
  include_bias: ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"],
  "include_bias and bias_for_layer_norm": [
    ..."q_proj k_proj v_proj attn_out ff_proj up_proj ff_out".split(" "),
    "attn_norm",
    "ff_norm",
    "ln_f",
  ],
};

function checkpointOf(
  changes: Readonly<Record<string, unknown>>,
  biased: readonly string[],
): NaiveCheckpoint & { readonly shapes: ReadonlyMap<string, number[]> } {
  const config = { ...CONFIG, ...changes };
  const { d_model: hidden, n_heads: heads, mlp_hidden_size: ffn, vocab_size: vocab } = config;
  const kv = hidden / heads * (config.n_kv_heads ?? heads);
  const root = "model.transformer";
  const shapes = new Map<string, number[]>([[`${root}.wte.weight`, [vocab, hidden]]]);
  const add = (prefix: string, name: string, ...shape: number[]) => {
    shapes.set(`${prefix}.${name}.weight`, shape);
    if (biased.includes(name)) shapes.set(`${prefix}.${name}.bias`, [shape[0]]);
  };
  for (let layer = 0; layer < config.n_layers; layer++) {
    const block = `${root}.blocks.${layer}`;
    add(block, "attn_norm", hidden);
    add(block, "ff_norm", hidden);
    add(block, "q_proj", hidden, hidden);
    add(block, "k_proj", kv, hidden);
    add(block, "v_proj", kv, hidden);
    add(block, "attn_out", hidden, hidden);
    add(block, "ff_proj", ffn, hidden);
    add(block, "up_proj", ffn, hidden);
    add(block, "ff_out", hidden, ffn);
  }
  add(root, "ln_f", hidden);
  if ((changes as { weight_tying?: boolean }).weight_tying !== true) {
    add(root, "ff_out", vocab, hidden);
  }
  return { config, shapes, tensors: randomTensors(shapes) };
}

function randomTensors(shapes: ReadonlyMap<string, readonly number[]>): Map<string, Float32Array> {
  const random = randomFrom(21);
  return new Map([...shapes].map(([name, shape]) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b)).map(() => random() - 0.5);
    return [name, values];
  }));
}

async function write(folder: string, checkpoint: ReturnType<typeof checkpointOf>): Promise<void> {
  const { config, tensors, shapes } = checkpoint;
  await Deno.mkdir(folder, { recursive: true });
  const json = (name: string, value: unknown) =>
    Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value));
  await json("config.json", config);
  await json("tokenizer.json", TOKENIZER);
  const header = encodeHeader(
    [...shapes].map(([name, shape]) => ({ name, dtype: "F32" as const, shape })),
  );
  const parts = [header, ...[...tensors.values()].map((data) => new Uint8Array(data.buffer))];
  const file = await Deno.create(`${folder}/model.safetensors`);
  const writer = file.writable.getWriter();
  for (const part of parts) await writer.write(part);
  await writer.close();
}

/** A LLaDA-MoE checkpoint: every layer a mixture, heads normalised, nothing shared. */
function mixtureCheckpoint(): ReturnType<typeof checkpointOf> {
  const config = {
    architectures: ["LLaDAMoEModelLM"],
    model_type: "llada",
    hidden_act: "silu",
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    expert_intermediate_size: 32,
    dense_intermediate_size: 96,
    shared_expert_intermediate_size: null,
    num_experts: 6,
    num_experts_per_tok: 2,
    moe_layer_freq: [1, 1],
    norm_topk_prob: null,
    qk_layernorm: true,
    routed_scaling_factor: 1,
    router_num_group: null,
    router_topk_group: null,
    vocab_size: 120,
    max_position_embeddings: 64,
    partial_rotary_factor: 1,
    rms_norm_eps: 1e-5,
    rope_theta: 50000,
    tie_word_embeddings: false,
    mask_token_id: 7,
    eos_token_id: 3,
  };
  const shapes = new Map<string, number[]>([["model.embed_tokens.weight", [120, 64]]]);
  for (const layer of [0, 1]) {
    const at = `model.layers.${layer}`;
    shapes.set(`${at}.input_layernorm.weight`, [64]);
    shapes.set(`${at}.post_attention_layernorm.weight`, [64]);
    for (const part of ["q", "k", "v", "o"]) {
      shapes.set(`${at}.self_attn.${part}_proj.weight`, [64, 64]);
    }
    for (const part of ["q", "k"]) shapes.set(`${at}.self_attn.${part}_norm.weight`, [16]);
    shapes.set(`${at}.mlp.gate.weight`, [6, 64]);
    for (let expert = 0; expert < 6; expert++) {
      shapes.set(`${at}.mlp.experts.${expert}.gate_proj.weight`, [32, 64]);
      shapes.set(`${at}.mlp.experts.${expert}.up_proj.weight`, [32, 64]);
      shapes.set(`${at}.mlp.experts.${expert}.down_proj.weight`, [64, 32]);
    }
  }
  shapes.set("model.norm.weight", [64]);
  shapes.set("lm_head.weight", [120, 64]);
  return { config, shapes, tensors: randomTensors(shapes) };
}

const CASES: [string, ReturnType<typeof checkpointOf>][] = [
  ...Object.entries(BIASED).flatMap(([flags, biased]) =>
    [{}, { weight_tying: true }, { n_kv_heads: null }].map(
      (changes): [string, ReturnType<typeof checkpointOf>] => [
        `LLaDA, ${JSON.stringify(changes)}, biases: ${flags}`,
        checkpointOf(changes, biased),
      ],
    )
  ),
  ["LLaDA-MoE", mixtureCheckpoint()],
];

for (const [name, checkpoint] of CASES) {
  Deno.test(`a converted checkpoint gives the logits of its definition: ${name}`, async () => {
    const bundle = await floatBundleOf((folder) => write(folder, checkpoint));
    const session = await openSession({
      ...bundle,
      backends: ["wasm"],
      options: { threads: 1, softwareAdapter: false },
    });
    const ids = Array.from({ length: 11 }, (_, i) => (i * 37 + 5) % 120);
    const rows = ids.map((_, i) => i);
    const input = { slot: 0, start: 0, ids, blockLength: Infinity, keep: 0, rows };
    const found = (await wholeLogits(session, input, 120)).rows.flatMap((row) => [...row]);
    await session.close();
    const expected = forwardNaively(checkpoint, ids).flat();
    const most = Math.max(...expected.map(Math.abs));
    const worst = Math.max(...expected.map((value, i) => Math.abs(value - found[i])));
    assert(worst <= 1e-4 * most, `${worst} apart, the largest is ${most}`);
  });
}
