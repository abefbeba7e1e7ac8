/**
 * The transformer as an ONNX graph, generated from a manifest's architecture for one backend.
 *
 * One graph serves every phase. It reads `input_ids` behind a past that the caller keeps, and returns the new keys and
 * values of every layer, and the candidates of the asked `rows` only. What may see what is said by two vectors of block
 * numbers: a query sees a key when `query_block >= key_block`. That covers block-causal attention, padding (a key block
 * beyond every query) and bidirectional attention (all equal).
 */
import type { Architecture } from "../manifest.ts";
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
  const norm = (x: string, name: string) =>
    graph.node("SimplifiedLayerNormalization", [x, weights.vector(graph, name)], epsilon);

  const visible = graph.node("GreaterOrEqual", [
    graph.node("Unsqueeze", [TENSORS.queryBlock, fixed(1, 3)]),
    graph.node("Unsqueeze", [TENSORS.keyBlock, fixed(1, 2)]),
  ]);
  const attentionBias = graph.node("Where", [ // [B, 1, L * groups, T]
    visible,
    graph.constant("float32", [0], []),
    graph.constant("float32", [-1e9], []),
  ]);

  const [cos, sin] = rotaryTables(graph, a);
  const rotate = (x: string, heads: number, shape: string, normName: string) => {
    const normed = a.qkNorm ? norm(reshape(x, fixed(-1, heads, a.headDim)), normName) : x;
    const inputs = [reshape(normed, shape), TENSORS.positionIds, cos, sin];
    return graph.node("RotaryEmbedding", inputs, { num_heads: heads }, MICROSOFT);
  };

  let x = reshape(weights.embed(graph, TENSORS.inputIds), fixed(-1, a.hiddenSize));
  for (let i = 0; i < a.layers; i++) {
    const at = (part: string) => `layers.${i}.${part}`;
    const linear = (input: string, part: string, bias = false) =>
      weights.linear(graph, input, at(part), bias);

    const normed = norm(x, at("attention_norm"));
    const query = rotate(linear(normed, "q", a.qkvBias), a.heads, queryShape, at("q_norm"));
    const key = rotate(linear(normed, "k", a.qkvBias), a.kvHeads, keyShape, at("k_norm"));
    const value = reshape(linear(normed, "v", a.qkvBias), keyShape);
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

    const hidden = norm(x, at("ffn_norm"));
    const gate = linear(hidden, "gate");
    const silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])]);
    x = graph.node("Add", [x, linear(graph.node("Mul", [silu, linear(hidden, "up")]), "down")]);
  }

  // Candidate head: only the asked rows meet the vocabulary, and only K numbers of each leave the device.
  const last = norm(graph.node("Gather", [x, TENSORS.rows], { axis: 0 }), "final_norm");
  const logits = weights.linear(graph, last, a.tiedEmbeddings ? "embed" : "head", false);
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
  return graph.finish();
}

/** cos and sin of position x frequency, [contextLength, headDim / 2] (RoFormer, half-split form). */
function rotaryTables(graph: GraphBuilder, a: Architecture): [string, string] {
  const half = a.headDim / 2;
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
