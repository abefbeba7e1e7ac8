/**
 * The transformer as an ONNX graph, generated from a manifest's architecture for one backend.
 *
 * One graph serves every phase. It reads `input_ids` behind a past that the caller keeps, and returns the new keys and
 * values of every layer, and the candidates of the asked `rows` only. What may see what is said by two vectors of block
 * numbers: a query sees a key when `query_block >= key_block`. That covers block-causal attention, padding (a key block
 * beyond every query) and bidirectional attention (all equal).
 */
import type { Architecture } from "../manifest.ts";
import { gatedFeedForward, mixture } from "./feed_forward.ts";
import { GraphBuilder } from "./onnx.ts";
import type { WeightLayout } from "./weights.ts";

const MICROSOFT = { domain: "com.microsoft" } as const;

/** Names of the graph's inputs and outputs (see the file comment for their meaning). */
export const TENSORS = {
  /** int64 [B, L] */
  inputIds: "input_ids",
  /** int64 [B, L] */
  positionIds: "position_ids",
  /** float32 [B, L * heads / kvHeads]: each position's block number, repeated for its query groups */
  queryBlock: "query_block",
  /** float32 [B, P + L] */
  keyBlock: "key_block",
  /** int32 [N]: rows of the flattened [B * L] positions whose candidates are wanted */
  rows: "rows",
  /** int32 [N]: the unconditional row that guides each of them; itself where nothing does */
  guideRows: "guide_rows",
  /** float32 [N, 1]: how far guidance goes beyond the conditional row; 0 where nothing guides */
  guideScale: "guide_scale",
  /** int32 [W]: ids whose own logits are wanted */
  watch: "watch",
  /** float32 [B, P, kvHeads * headDim] */
  pastKey: (layer: number) => `past_key_${layer}`,
  pastValue: (layer: number) => `past_value_${layer}`,
  /** float32 [B, L, kvHeads * headDim] */
  newKey: (layer: number) => `new_key_${layer}`,
  newValue: (layer: number) => `new_value_${layer}`,
  /** float32 [N, K], highest first */
  candidateLogits: "candidate_logits",
  /** int64 [N, K] */
  candidateIds: "candidate_ids",
  /** float32 [N]: log of the sum of exp over the whole vocabulary, so p = exp(logit - lse) is exact */
  logSumExp: "log_sum_exp",
  /** float32 [N]: entropy of the whole distribution, in nats */
  entropy: "entropy",
  /** float32 [N, W] */
  watchedLogits: "watched_logits",
} as const;

/**
 * Writes the graph of `architecture` over the given weights.
 *
 * @param options.candidates K, how many of the most likely tokens the head returns for each row
 * @returns a serialised ONNX model whose large initialisers point into the layout's files
 */
export function buildTransformer(
  architecture: Architecture,
  weights: WeightLayout,
  options: { readonly candidates: number },
): Uint8Array {
  const a = architecture;
  const kvWidth = a.kvHeads * a.headDim;
  const groups = a.heads / a.kvHeads;
  const graph = new GraphBuilder("denoiser");
  const epsilon = { epsilon: { float: a.normEpsilon }, axis: -1 } as const;

  graph.input(TENSORS.inputIds, "int64", ["B", "L"]);
  graph.input(TENSORS.positionIds, "int64", ["B", "L"]);
  graph.input(TENSORS.queryBlock, "float32", ["B", "LG"]);
  graph.input(TENSORS.keyBlock, "float32", ["B", "T"]);
  graph.input(TENSORS.rows, "int32", ["N"]);
  graph.input(TENSORS.guideRows, "int32", ["N"]);
  graph.input(TENSORS.guideScale, "float32", ["N", 1]);
  graph.input(TENSORS.watch, "int32", ["W"]);

  const batchAndLength = graph.node("Shape", [TENSORS.inputIds]);
  const batch = graph.node("Slice", [
    batchAndLength,
    graph.constant("int64", [0]),
    graph.constant("int64", [1]),
  ]);
  const shaped = (head: string, ...rest: number[]) =>
    graph.node("Concat", [head, graph.constant("int64", rest)], { axis: 0 });
  const keyShape = shaped(batchAndLength, kvWidth);
  const queryShape = shaped(batchAndLength, a.heads * a.headDim);
  const groupedShape = shaped(batch, -1, kvWidth); // [B, L * groups, kvHeads * headDim]
  const reshape = (x: string, shape: string) => graph.node("Reshape", [x, shape]);
  const fixed = (...dims: number[]) => graph.constant("int64", dims);
  const norm = (x: string, name: string) => {
    const inputs = [x, weights.vector(graph, name)];
    const y = graph.node("SimplifiedLayerNormalization", inputs, epsilon);
    const bias = `${name}.bias`;
    return weights.has(bias) ? graph.node("Add", [y, weights.vector(graph, bias)]) : y;
  };

  const visible = graph.node("GreaterOrEqual", [
    graph.node("Unsqueeze", [TENSORS.queryBlock, fixed(1, 3)]),
    graph.node("Unsqueeze", [TENSORS.keyBlock, fixed(1, 2)]),
  ]);
  const attentionBias = graph.node("Where", [ // [B, 1, L * groups, T]
    visible,
    graph.constant("float32", [0], []),
    graph.constant("float32", [-1e9], []),
  ]);

  const rotaryDim = a.rotaryDim ?? a.headDim;
  const [cos, sin] = rotaryTables(graph, a, rotaryDim);
  const rotateWhole = (x: string, heads: number) =>
    graph.node(
      "RotaryEmbedding",
      [x, TENSORS.positionIds, cos, sin],
      { num_heads: heads },
      MICROSOFT,
    );
  /** Rotates the first dimensions of every head of x [B * L, heads * headDim], which becomes [B, L, heads * headDim]. */
  const rotate = (x: string, heads: number, shape: string, normName: string) => {
    const normed = a.qkNorm ? norm(reshape(x, fixed(-1, heads, a.headDim)), normName) : x;
    if (rotaryDim === a.headDim) return rotateWhole(reshape(normed, shape), heads);
    const parts = reshape(normed, fixed(-1, heads, a.headDim));
    const part = (from: number, to: number) =>
      graph.node("Slice", [parts, fixed(from), fixed(to), fixed(2)]);
    const turned = rotateWhole(
      reshape(part(0, rotaryDim), shaped(batchAndLength, heads * rotaryDim)),
      heads,
    );
    const joined = graph.node("Concat", [
      reshape(turned, fixed(-1, heads, rotaryDim)),
      part(rotaryDim, a.headDim),
    ], { axis: 2 });
    return reshape(joined, shape);
  };

  let x = reshape(weights.embed(graph, TENSORS.inputIds), fixed(-1, a.hiddenSize));
  for (let i = 0; i < a.layers; i++) {
    const at = (part: string) => `layers.${i}.${part}`;
    const linear = (input: string, part: string) => weights.linear(graph, input, at(part));

    const normed = norm(x, at("attention_norm"));
    const query = rotate(linear(normed, "q"), a.heads, queryShape, at("q_norm"));
    const key = rotate(linear(normed, "k"), a.kvHeads, keyShape, at("k_norm"));
    const value = reshape(linear(normed, "v"), keyShape);
    const keys = graph.node("Concat", [
      graph.input(TENSORS.pastKey(i), "float32", ["B", "P", kvWidth]),
      key,
    ], { axis: 1 });
    const values = graph.node("Concat", [
      graph.input(TENSORS.pastValue(i), "float32", ["B", "P", kvWidth]),
      value,
    ], { axis: 1 });
    graph.node("Identity", [key], {}, { outputs: [TENSORS.newKey(i)] });
    graph.node("Identity", [value], {}, { outputs: [TENSORS.newValue(i)] });
    graph.output(TENSORS.newKey(i), "float32", ["B", "L", kvWidth]);
    graph.output(TENSORS.newValue(i), "float32", ["B", "L", kvWidth]);

    // Non-causal grouped-query attention: q is stored group-major, so kvHeads heads over L * groups queries are exact
    // and no key or value is repeated.
    const attended = graph.node(
      "MultiHeadAttention",
      [reshape(query, groupedShape), keys, values, "", "", attentionBias],
      { num_heads: a.kvHeads },
      MICROSOFT,
    );
    const joined = reshape(attended, fixed(-1, groups * kvWidth));
    x = graph.node("Add", [x, linear(joined, "o")]);

    const inner = norm(x, at("ffn_norm"));
    const isMixture = a.experts !== undefined && i >= a.experts.denseLayers;
    const written = isMixture
      ? mixture(graph, weights, inner, { layer: i, architecture: a, experts: a.experts! })
      : gatedFeedForward(graph, weights, inner, `layers.${i}.`);
    x = graph.node("Add", [x, written]);
  }

  // Candidate head: only the asked rows meet the vocabulary, and only K numbers of each leave the device.
  // Guidance is linear in the logits and the head is linear too, so it is applied before the head: no second vocabulary.
  const hidden = (rows: string) => norm(graph.node("Gather", [x, rows], { axis: 0 }), "final_norm");
  const asked = hidden(TENSORS.rows);
  const away = graph.node("Sub", [asked, hidden(TENSORS.guideRows)]);
  const last = graph.node("Add", [asked, graph.node("Mul", [away, TENSORS.guideScale])]);
  const logits = weights.linear(graph, last, a.tiedEmbeddings ? "embed" : "head");
  graph.node("TopK", [logits, fixed(options.candidates)], { axis: -1, largest: 1, sorted: 1 }, {
    outputs: [TENSORS.candidateLogits, TENSORS.candidateIds],
  });
  const lse = graph.node("ReduceLogSumExp", [logits, fixed(-1)], { keepdims: 1 });
  const probabilities = graph.node("Exp", [graph.node("Sub", [logits, lse])]);
  const expected = graph.node("ReduceSum", [
    graph.node("Mul", [probabilities, logits]),
    fixed(-1),
  ], { keepdims: 0 });
  graph.node("Squeeze", [lse, fixed(-1)], {}, { outputs: [TENSORS.logSumExp] });
  graph.node("Sub", [TENSORS.logSumExp, expected], {}, { outputs: [TENSORS.entropy] });
  graph.output(TENSORS.candidateLogits, "float32", ["N", options.candidates]);
  graph.output(TENSORS.candidateIds, "int64", ["N", options.candidates]);
  graph.output(TENSORS.logSumExp, "float32", ["N"]);
  graph.output(TENSORS.entropy, "float32", ["N"]);
  graph.node("Gather", [logits, TENSORS.watch], { axis: 1 }, { outputs: [TENSORS.watchedLogits] });
  graph.output(TENSORS.watchedLogits, "float32", ["N", "W"]);
  return graph.finish();
}

/** cos and sin of position x frequency, [contextLength, rotaryDim / 2] (RoFormer, half-split form). */
function rotaryTables(
  graph: GraphBuilder,
  a: Architecture,
  rotaryDim: number,
): [string, string] {
  const half = rotaryDim / 2;
  const cos = new Float32Array(a.contextLength * half);
  const sin = new Float32Array(a.contextLength * half);
  for (let position = 0; position < a.contextLength; position++) {
    for (let j = 0; j < half; j++) {
      const angle = position * a.ropeTheta ** (-j / half);
      cos[position * half + j] = Math.cos(angle);
      sin[position * half + j] = Math.sin(angle);
    }
  }
  const add = (name: string, table: Float32Array) =>
    graph.initializer(
      name,
      "float32",
      [a.contextLength, half],
      new Uint8Array(table.buffer),
    );
  return [add("rotary_cos", cos), add("rotary_sin", sin)];
}
