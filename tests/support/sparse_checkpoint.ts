/** Checkpoints as large as real ones that take no space: all weights are zero and their file is sparse. */
import { encodeHeader } from "../../src/safetensors.ts";
import { TOKENIZER } from "./checkpoint.ts";

/** Sizes of a LLaDA checkpoint. */
export interface SparseShape {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly ffn: number;
  readonly vocab: number;
}

/** LLaDA-8B's. */
export const EIGHT_BILLION: SparseShape = {
  layers: 32,
  hidden: 4096,
  heads: 32,
  ffn: 12288,
  vocab: 126464,
};

/** What was written. */
export interface SparseCheckpoint {
  readonly parameters: number;
  /** As the file says, not as it takes. */
  readonly bytes: number;
  readonly largestTensorBytes: number;
}

/** Writes a bfloat16 LLaDA checkpoint of zeros into `folder`. */
export async function writeSparseCheckpoint(
  folder: string,
  { layers, hidden, heads, ffn, vocab }: SparseShape,
): Promise<SparseCheckpoint> {
  const root = "model.transformer";
  const block = (i: number): [string, number[]][] => [
    [`${root}.blocks.${i}.attn_norm.weight`, [hidden]],
    [`${root}.blocks.${i}.ff_norm.weight`, [hidden]],
    ...["q_proj", "k_proj", "v_proj", "attn_out"].map((name): [string, number[]] => [
      `${root}.blocks.${i}.${name}.weight`,
      [hidden, hidden],
    ]),
    [`${root}.blocks.${i}.ff_proj.weight`, [ffn, hidden]],
    [`${root}.blocks.${i}.up_proj.weight`, [ffn, hidden]],
    [`${root}.blocks.${i}.ff_out.weight`, [hidden, ffn]],
  ];
  const tensors: [string, number[]][] = [
    [`${root}.wte.weight`, [vocab, hidden]],
    ...Array.from({ length: layers }, (_, i) => block(i)).flat(),
    [`${root}.ln_f.weight`, [hidden]],
    [`${root}.ff_out.weight`, [vocab, hidden]],
  ];
  const sizes = tensors.map(([, shape]) => shape.reduce((a, b) => a * b));
  const parameters = sizes.reduce((a, b) => a + b);
  const header = encodeHeader(
    tensors.map(([name, shape]) => ({ name, dtype: "BF16" as const, shape })),
  );
  const bytes = header.length + parameters * 2;
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeFile(`${folder}/model.safetensors`, header);
  await Deno.truncate(`${folder}/model.safetensors`, bytes); // a hole: reads as zeros
  const json = (name: string, value: unknown) =>
    Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value));
  await json("config.json", {
    architectures: ["LLaDAModelLM"],
    model_type: "llada",
    n_layers: layers,
    d_model: hidden,
    n_heads: heads,
    n_kv_heads: heads,
    mlp_hidden_size: ffn,
    embedding_size: vocab,
    vocab_size: vocab,
    max_sequence_length: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    weight_tying: false,
    mask_token_id: vocab - 1,
    eos_token_id: 0,
  });
  await json("tokenizer.json", TOKENIZER);
  await json("tokenizer_config.json", {});
  return { parameters, bytes, largestTensorBytes: Math.max(...sizes) * 2 };
}
