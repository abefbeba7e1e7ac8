/** The feed-forward part of a layer: one gated network, or a mixture of experts. */
import type { Architecture, Experts } from "../manifest.ts";
import type { GraphBuilder } from "./onnx.ts";
import type { WeightLayout } from "./weights.ts";

const MICROSOFT = { domain: "com.microsoft" } as const;

/** Logit of an expert that is not chosen. */
const NEVER = -1e9;

/** `down(silu(gate(x)) * up(x))` for x [T, hiddenSize], with the matrices `${prefix}gate` and so on. */
export function gatedFeedForward(
  graph: GraphBuilder,
  weights: WeightLayout,
  x: string,
  prefix: string,
): string {
  const gate = weights.linear(graph, x, `${prefix}gate`);
  const up = weights.linear(graph, x, `${prefix}up`);
  return weights.linear(graph, gated(graph, gate, up), `${prefix}down`);
}

const gated = (graph: GraphBuilder, gate: string, up: string) =>
  graph.node("Mul", [graph.node("Mul", [gate, graph.node("Sigmoid", [gate])]), up]);

/**
 * A mixture of experts for x [T, hiddenSize]: each token goes through its `perToken` best experts, weighted by its scores,
 * and through the shared one. Quantised experts run in QMoE where it works, which reads only the chosen ones. Elsewhere,
 * and where they are float, all are computed.
 *
 * Source of the routing: DeepSeek-V3 (2412.19437) section 2.1.2 for bias and groups.
 */
export function mixture(
  graph: GraphBuilder,
  weights: WeightLayout,
  x: string,
  { layer, architecture, experts }: {
    readonly layer: number;
    readonly architecture: Architecture;
    readonly experts: Experts;
  },
): string {
  const at = (part: string) => `layers.${layer}.${part}`;
  const scores = scoresOf(graph, weights, x, { at, experts });
  const chosen = chooseExperts(graph, weights, scores, { at, experts });
  const none = graph.constant("float32", [0], []);
  const share = graph.node("Where", [chosen, scores, none]); // [T, count]
  const total = graph.node("ReduceSum", [share, graph.constant("int64", [1])], { keepdims: 1 });
  const relative = graph.node("Div", [
    share,
    graph.node("Add", [total, graph.constant("float32", [1e-20], [])]),
  ]);
  const forms = ["gate_up", "down"].map((part) => weights.form(at(`experts.${part}`)));
  const routed = forms.some((form) => form === "fp32" || form === "fp16")
    ? floatExperts(graph, weights, x, { at, architecture, experts, relative })
    : weights.options.fusedExperts && forms[0] === forms[1]
    ? fusedExperts(graph, weights, x, { at, experts, chosen, relative })
    : quantizedExperts(graph, weights, x, { at, experts, relative });
  const scale = graph.constant("float32", [experts.scale], []);
  const scaled = graph.node("Mul", [
    routed,
    experts.normalize ? scale : graph.node("Mul", [total, scale]),
  ]);
  return experts.sharedFfnSize === undefined
    ? scaled
    : graph.node("Add", [scaled, gatedFeedForward(graph, weights, x, at("shared."))]);
}

interface Part {
  readonly at: (part: string) => string;
  readonly experts: Experts;
}

/** How well each expert suits each token, [T, count]. */
function scoresOf(
  graph: GraphBuilder,
  weights: WeightLayout,
  x: string,
  { at, experts }: Part,
): string {
  const logits = weights.linear(graph, x, at("router"));
  return experts.scoring === "sigmoid"
    ? graph.node("Sigmoid", [logits])
    : graph.node("Softmax", [logits], { axis: -1 });
}

/** Which experts each token goes to, bool [T, count]; the bias steers the choice, not the weight. */
function chooseExperts(
  graph: GraphBuilder,
  weights: WeightLayout,
  scores: string,
  { at, experts }: Part,
): string {
  const { count, perToken, groups, groupsPerToken } = experts;
  const bias = at("router_bias");
  let choice = weights.has(bias)
    ? graph.node("Add", [scores, weights.vector(graph, bias)])
    : scores;
  const reshape = (value: string, ...dims: number[]) =>
    graph.node("Reshape", [value, graph.constant("int64", dims)]);
  if (groups > 1) {
    // the groups whose two best experts sum to most
    const grouped = reshape(choice, -1, groups, count / groups);
    const best = topValues(graph, grouped, 2);
    const sums = graph.node("ReduceSum", [best, graph.constant("int64", [2])], { keepdims: 1 });
    const flat = reshape(sums, -1, groups);
    const open = graph.node("GreaterOrEqual", [flat, least(graph, flat, groupsPerToken)]);
    const kept = graph.node("Where", [
      graph.node("Unsqueeze", [open, graph.constant("int64", [2])]),
      grouped,
      graph.constant("float32", [NEVER], []),
    ]);
    choice = reshape(kept, -1, count);
  }
  return graph.node("GreaterOrEqual", [choice, least(graph, choice, perToken)]);
}

function topValues(graph: GraphBuilder, x: string, k: number): string {
  return graph.node(
    "TopK",
    [x, graph.constant("int64", [k])],
    { axis: -1, largest: 1, sorted: 1 },
    {
      outputs: [graph.fresh("values"), graph.fresh("indices")],
    },
  );
}

/** The k-th largest of every row of x [T, N], as [T, 1]. */
function least(graph: GraphBuilder, x: string, k: number): string {
  const from = graph.constant("int64", [k - 1]), to = graph.constant("int64", [k]);
  return graph.node("Slice", [topValues(graph, x, k), from, to, graph.constant("int64", [1])]);
}

/** QMoE weighs the chosen experts by a softmax over their logits: the logarithm of a share is the logit that gives it. */
function fusedExperts(
  graph: GraphBuilder,
  weights: WeightLayout,
  x: string,
  { at, experts, chosen, relative }: Part & { readonly chosen: string; readonly relative: string },
): string {
  const logits = graph.node("Where", [
    chosen,
    graph.node("Log", [relative]),
    graph.constant("float32", [NEVER], []),
  ]);
  const gateUp = weights.fusedExperts(graph, at("experts.gate_up"), experts.count);
  const down = weights.fusedExperts(graph, at("experts.down"), experts.count);
  const zeros = gateUp.zeros === undefined || down.zeros === undefined
    ? []
    : ["", "", "", "", gateUp.zeros, down.zeros];
  return graph.node("QMoE", [
    x,
    logits,
    gateUp.values,
    gateUp.scales,
    "",
    down.values,
    down.scales,
    ...zeros,
  ], {
    k: experts.perToken,
    activation_type: "swiglu",
    swiglu_fusion: 1, // gate and up rows alternate
    activation_alpha: { float: 1 },
    activation_beta: { float: 0 },
    swiglu_limit: { float: 1e30 }, // none
    normalize_routing_weights: 1,
    expert_weight_bits: gateUp.bits,
    ...(gateUp.block === 0 ? {} : { block_size: gateUp.block }),
  }, MICROSOFT);
}

/** Every quantised expert for every token, one after another, weighted by its share, which is 0 for most. */
function quantizedExperts(
  graph: GraphBuilder,
  weights: WeightLayout,
  x: string,
  { at, experts: { count, ffnSize }, relative }: Part & { readonly relative: string },
): string {
  let sum: string | undefined;
  for (let index = 0; index < count; index++) {
    const gateUp = graph.node("Reshape", [
      weights.expert(graph, x, at("experts.gate_up"), { index, count }),
      graph.constant("int64", [-1, ffnSize, 2]),
    ]);
    const half = (which: number) =>
      graph.node("Gather", [gateUp, graph.constant("int64", [which], [])], { axis: 2 });
    const inner = gated(graph, half(0), half(1));
    const share = graph.node("Gather", [relative, graph.constant("int64", [index])], { axis: 1 });
    const down = weights.expert(graph, inner, at("experts.down"), { index, count });
    const y = graph.node("Mul", [down, share]);
    sum = sum === undefined ? y : graph.node("Add", [sum, y]);
  }
  if (sum === undefined) throw new RangeError("a mixture of no experts");
  return sum;
}

/** Every expert for every token, weighted by its share, which is 0 for most. */
function floatExperts(
  graph: GraphBuilder,
  weights: WeightLayout,
  x: string,
  { at, architecture, experts, relative }: Part & {
    readonly architecture: Architecture;
    readonly relative: string;
  },
): string {
  const { count, ffnSize } = experts;
  const { hiddenSize } = architecture;
  const transposed = (part: string) =>
    graph.node("Transpose", [weights.expertMatrices(graph, at(part), count)], { perm: [0, 2, 1] });
  const gateUp = graph.node("Reshape", [
    graph.node("MatMul", [x, transposed("experts.gate_up")]), // [count, T, 2 * ffnSize]
    graph.constant("int64", [count, -1, ffnSize, 2]),
  ]);
  const half = (index: number) =>
    graph.node("Gather", [gateUp, graph.constant("int64", [index], [])], { axis: 3 });
  const inner = gated(graph, half(0), half(1));
  const outputs = graph.node("MatMul", [inner, transposed("experts.down")]); // [count, T, hidden]
  const shares = graph.node("Unsqueeze", [
    graph.node("Transpose", [relative], { perm: [1, 0] }),
    graph.constant("int64", [2]),
  ]);
  const sum = graph.node("ReduceSum", [
    graph.node("Mul", [outputs, shares]),
    graph.constant("int64", [0]),
  ], { keepdims: 0 });
  return graph.node("Reshape", [sum, graph.constant("int64", [-1, hiddenSize])]);
}
