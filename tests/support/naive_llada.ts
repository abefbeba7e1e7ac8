/** The forward passes of LLaDA and LLaDA-MoE in plain loops, from a checkpoint's own tensors: the judge of variants that no vectors record. */

/** A checkpoint in memory. */
export interface NaiveCheckpoint {
  // config.json: numbers and flags
  readonly config: Readonly<Record<string, unknown>>;
  /** Values by the checkpoint's names; a bias that is absent is none. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

/** What the two call things. */
const NAMES = {
  LLaDAModelLM: {
    hidden: "d_model",
    heads: "n_heads",
    kvHeads: "n_kv_heads",
    layers: "n_layers",
    tied: "weight_tying",
    embed: "model.transformer.wte",
    norm: "model.transformer.ln_f",
    head: "model.transformer.ff_out",
    layer: (i: number) => `model.transformer.blocks.${i}`,
    attentionNorm: "attn_norm",
    attention: ["q_proj", "k_proj", "v_proj", "attn_out"],
    ffnNorm: "ff_norm",
    ffn: ["ff_proj", "up_proj", "ff_out"],
  },
  LLaDAMoEModelLM: {
    hidden: "hidden_size",
    heads: "num_attention_heads",
    kvHeads: "num_key_value_heads",
    layers: "num_hidden_layers",
    tied: "tie_word_embeddings",
    embed: "model.embed_tokens",
    norm: "model.norm",
    head: "lm_head",
    layer: (i: number) => `model.layers.${i}`,
    attentionNorm: "input_layernorm",
    attention: ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `self_attn.${name}`),
    ffnNorm: "post_attention_layernorm",
    ffn: ["gate_proj", "up_proj", "down_proj"],
  },
} as const;

type Rows = number[][];

/** Logits [L][V] of `ids`, every position seeing every other. */
export function forwardNaively({ config, tensors }: NaiveCheckpoint, ids: readonly number[]): Rows {
  const size = (name: string) => Number(config[name]);
  const [architecture] = config.architectures as (keyof typeof NAMES)[];
  const names = NAMES[architecture];
  const hidden = size(names.hidden), heads = size(names.heads), dim = hidden / heads;
  const kvHeads = config[names.kvHeads] === null ? heads : size(names.kvHeads);
  const of = (name: string) => {
    const values = tensors.get(name);
    if (values === undefined) throw new Error(`no tensor ${name}`);
    return values;
  };
  const linear = (rows: Rows, name: string, matrix = of(`${name}.weight`)): Rows =>
    rows.map((x) => {
      const bias = tensors.get(`${name}.bias`);
      return Array.from({ length: matrix.length / x.length }, (_, n) => {
        let sum = bias?.[n] ?? 0;
        for (let k = 0; k < x.length; k++) sum += matrix[n * x.length + k] * x[k];
        return sum;
      });
    });
  /** RMSNorm of each row, or of each head in it. */
  const norm = (rows: Rows, name: string): Rows =>
    rows.map((x) => {
      const mean = x.reduce((sum, v) => sum + v * v, 0) / x.length;
      const scale = 1 / Math.sqrt(mean + size("rms_norm_eps"));
      const gain = of(`${name}.weight`), bias = tensors.get(`${name}.bias`);
      return x.map((v, i) => v * scale * gain[i] + (bias?.[i] ?? 0));
    });
  const rotate = (rows: Rows): Rows =>
    rows.map((x, position) =>
      x.map((v, i) => {
        const d = i % dim, half = dim / 2;
        const angle = position * size("rope_theta") ** (-(d % half) / half);
        const other = d < half ? -x[i + half] : x[i - half];
        return v * Math.cos(angle) + other * Math.sin(angle);
      })
    );
  const normHeads = (rows: Rows, name: string): Rows =>
    !tensors.has(`${name}.weight`) ? rows : rows.map((row) => {
      const parts = Array.from(
        { length: row.length / dim },
        (_, head) => row.slice(head * dim, (head + 1) * dim),
      );
      return norm(parts, name).flat();
    });
  const gated = (rows: Rows, prefix: string): Rows => {
    const [gateName, upName, downName] = names.ffn.map((name) => `${prefix}.${name}`);
    const gate = linear(rows, gateName), up = linear(rows, upName);
    return linear(
      gate.map((row, i) => row.map((g, j) => g / (1 + Math.exp(-g)) * up[i][j])),
      downName,
    );
  };
  const mixture = (rows: Rows, prefix: string): Rows =>
    linear(rows, `${prefix}.gate`).map((logits, i) => {
      const total = logits.reduce((sum, l) => sum + Math.exp(l), 0);
      const best = logits.map((_, e) => e).sort((a, b) => logits[b] - logits[a])
        .slice(0, size("num_experts_per_tok"));
      const outputs = best.map((e) => gated([rows[i]], `${prefix}.experts.${e}`)[0]);
      return rows[i].map((_, d) =>
        best.reduce((sum, e, n) => sum + Math.exp(logits[e]) / total * outputs[n][d], 0)
      );
    });
  const add = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((v, j) => v + b[i][j]));

  const table = of(`${names.embed}.weight`);
  let x: Rows = ids.map((id) => [...table.slice(id * hidden, (id + 1) * hidden)]);
  for (let layer = 0; layer < size(names.layers); layer++) {
    const block = names.layer(layer);
    const [qName, kName, vName, oName] = names.attention.map((name) => `${block}.${name}`);
    const h = norm(x, `${block}.${names.attentionNorm}`);
    const q = rotate(normHeads(linear(h, qName), qName.replace("q_proj", "q_norm")));
    const k = rotate(normHeads(linear(h, kName), kName.replace("k_proj", "k_norm")));
    const v = linear(h, vName);
    const attended = q.map((query) =>
      Array.from({ length: heads }, (_, head) => {
        const at = Math.floor(head / (heads / kvHeads)) * dim;
        const weights = k.map((key) => {
          let dot = 0;
          for (let d = 0; d < dim; d++) dot += query[head * dim + d] * key[at + d];
          return Math.exp(dot / Math.sqrt(dim));
        });
        const total = weights.reduce((a, b) => a + b);
        return Array.from(
          { length: dim },
          (_, d) => weights.reduce((sum, w, p) => sum + w * v[p][at + d], 0) / total,
        );
      }).flat()
    );
    x = add(x, linear(attended, oName));
    const inner = norm(x, `${block}.${names.ffnNorm}`);
    const experts = tensors.has(`${block}.mlp.gate.weight`);
    x = add(x, experts ? mixture(inner, `${block}.mlp`) : gated(inner, block));
  }
  const head = config[names.tied] === true ? table : of(`${names.head}.weight`);
  return linear(norm(x, names.norm), names.head, head);
}
