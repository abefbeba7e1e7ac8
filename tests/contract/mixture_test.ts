/** A mixture of experts on every backend against its definition in plain loops. */
import { assert, assertEquals } from "@std/assert";
import { ENCODERS } from "../../src/convert/encode.ts";
import { mixture } from "../../src/graph/feed_forward.ts";
import { storedForm, type StoredTensor, storedTensors } from "../../src/graph/storage.ts";
import { type Architecture, type Dtype, DTYPES, type Experts } from "../../src/manifest.ts";
import { randomFrom } from "../../src/random.ts";
import { encodeHeader, parseSafetensors } from "../../src/safetensors.ts";
import { testBackends } from "../support/backends.ts";
import { denseTensor } from "../support/dequantized.ts";
import { available } from "../support/require.ts";
import { openGraph } from "../support/run_graph.ts";
import { scriptedManifest } from "../support/scripted_session.ts";

const HIDDEN = 64, TOKENS = 33;

const KINDS: Readonly<Record<string, Experts>> = {
  "sigmoid scores, groups, bias, a shared expert": {
    count: 8,
    perToken: 2,
    ffnSize: 32,
    sharedFfnSize: 32,
    denseLayers: 0,
    scoring: "sigmoid",
    normalize: true,
    scale: 2.5,
    groups: 4,
    groupsPerToken: 2,
  },
  "softmax scores as they are": {
    count: 6,
    perToken: 3,
    ffnSize: 64,
    denseLayers: 0,
    scoring: "softmax",
    normalize: false,
    scale: 1,
    groups: 1,
    groupsPerToken: 1,
  },
};

/** Random tensors of layer 0, by the bundle's names. */
function tensorsOf(experts: Experts): Map<string, { shape: number[]; data: Float32Array }> {
  const { count, ffnSize, sharedFfnSize } = experts;
  const random = randomFrom(5);
  const tensors = new Map<string, { shape: number[]; data: Float32Array }>();
  const add = (name: string, ...shape: number[]) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b));
    tensors.set(`layers.0.${name}`, { shape, data: data.map(() => (random() - 0.5) * 0.6) });
  };
  add("router.weight", count, HIDDEN);
  if (experts.groups > 1) add("router_bias", count);
  add("experts.gate_up.weight", count, 2 * ffnSize, HIDDEN);
  add("experts.down.weight", count, HIDDEN, ffnSize);
  if (sharedFfnSize !== undefined) {
    add("shared.gate.weight", sharedFfnSize, HIDDEN);
    add("shared.up.weight", sharedFfnSize, HIDDEN);
    add("shared.down.weight", HIDDEN, sharedFfnSize);
  }
  return tensors;
}

type Tensors = ReturnType<typeof tensorsOf>;

/** The weights file; experts in a storage form, and `tensors` become what that form says. */
function fileOf(tensors: Tensors, form: Dtype): Uint8Array {
  const stored: StoredTensor[] = [], parts: ArrayBufferView[] = [];
  for (const [name, { shape, data }] of tensors) {
    const columns = shape[shape.length - 1];
    const isExpert = name.includes("experts");
    const rows = data.length / columns;
    const asked = isExpert ? storedForm(form, [rows, columns]) : "fp32";
    parts.push(...ENCODERS[asked]({ weights: data, columns, source: name }));
    stored.push(
      ...isExpert
        ? storedTensors(name.replace(".weight", ""), asked, [rows, columns])
        : [{ name, dtype: "F32" as const, shape }],
    );
  }
  const header = encodeHeader(stored);
  const file = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, header.length));
  file.set(header);
  let at = header.length;
  for (const { buffer, byteOffset, byteLength } of parts) {
    file.set(new Uint8Array(buffer, byteOffset, byteLength), at);
    at += byteLength;
  }
  const { tensors: infos } = parseSafetensors(file, "w");
  for (const [name, tensor] of tensors) tensor.data = denseTensor(file, infos, name).data;
  return file;
}

/** One token through the definition. */
function naive(x: Float32Array, tensors: Tensors, experts: Experts): number[] {
  const of = (name: string) => tensors.get(`layers.0.${name}`)!.data;
  const times = (w: Float32Array, from: number, rows: number, v: ArrayLike<number>) =>
    Array.from({ length: rows }, (_, r) => {
      let sum = 0;
      for (let c = 0; c < v.length; c++) sum += w[from + r * v.length + c] * v[c];
      return sum;
    });
  const silu = (v: number) => v / (1 + Math.exp(-v));
  const { count, ffnSize, perToken, groups, groupsPerToken, sharedFfnSize } = experts;
  const logits = times(of("router.weight"), 0, count, x);
  const sum = logits.reduce((total, l) => total + Math.exp(l), 0);
  const scores = logits.map((l) =>
    experts.scoring === "sigmoid" ? 1 / (1 + Math.exp(-l)) : Math.exp(l) / sum
  );
  const bias = tensors.get("layers.0.router_bias")?.data ?? new Float32Array(count);
  const choice = scores.map((s, e) => s + bias[e]);
  const size = count / groups;
  const worth = (g: number) =>
    choice.slice(g * size, (g + 1) * size).sort((a, b) => b - a).slice(0, 2)
      .reduce((a, b) => a + b);
  const best = Array.from({ length: groups }, (_, g) => g).sort((a, b) => worth(b) - worth(a))
    .slice(0, groupsPerToken);
  const chosen = choice.map((_, e) => e).filter((e) => best.includes(Math.floor(e / size)))
    .sort((a, b) => choice[b] - choice[a]).slice(0, perToken);
  const total = experts.normalize ? chosen.reduce((t, e) => t + scores[e], 0) : 1;
  const out = new Array(HIDDEN).fill(0);
  for (const e of chosen) {
    const both = times(of("experts.gate_up.weight"), e * 2 * ffnSize * HIDDEN, 2 * ffnSize, x);
    const inner = Array.from({ length: ffnSize }, (_, i) => silu(both[2 * i]) * both[2 * i + 1]);
    times(of("experts.down.weight"), e * HIDDEN * ffnSize, HIDDEN, inner)
      .forEach((v, i) => out[i] += v * scores[e] / total * experts.scale);
  }
  if (sharedFfnSize !== undefined) {
    const gate = times(of("shared.gate.weight"), 0, sharedFfnSize, x);
    const up = times(of("shared.up.weight"), 0, sharedFfnSize, x);
    times(of("shared.down.weight"), 0, HIDDEN, gate.map((g, i) => silu(g) * up[i]))
      .forEach((v, i) => out[i] += v);
  }
  return out;
}

for (const { name, ok, why } of await testBackends()) {
  for (const [kind, experts] of Object.entries(KINDS)) {
    for (const form of DTYPES) {
      Deno.test({
        name: `${name}: a mixture with ${kind}, ${form}`,
        ...available(name, ok, why),
        fn: async () => {
          const architecture: Architecture = {
            ...scriptedManifest().architecture,
            hiddenSize: HIDDEN,
            experts,
          };
          const tensors = tensorsOf(experts);
          const file = fileOf(tensors, form);
          const opened = await openGraph(name, file, (graph, layout) => {
            graph.input("x", "float32", ["T", HIDDEN]);
            const y = mixture(graph, layout, "x", { layer: 0, architecture, experts });
            graph.node("Identity", [y], {}, { outputs: ["y"] });
            graph.output("y", "float32", ["T", HIDDEN]);
          });
          const random = randomFrom(9);
          for (const count of [TOKENS, 1]) {
            const x = new Float32Array(count * HIDDEN).map(() => (random() - 0.5) * 4);
            const data = await opened.run({
              x: { type: "float32", dims: [count, HIDDEN], data: x },
            });
            assertEquals(data.length, x.length);
            let most = 0, worst = 0;
            for (let t = 0; t < count; t++) {
              naive(x.subarray(t * HIDDEN, (t + 1) * HIDDEN), tensors, experts).forEach((v, i) => {
                most = Math.max(most, Math.abs(v));
                worst = Math.max(worst, Math.abs(Number(data[t * HIDDEN + i]) - v));
              });
            }
            // two forms in one mixture are multiplied expert by expert, on native with activations in int8
            const mixed = form === "q4" && experts.ffnSize % 64 !== 0;
            const tolerance = mixed && name === "native" ? 2e-2 : 1e-4;
            assert(worst <= tolerance * most, `${worst} apart, the largest is ${most}`);
          }
          await opened.close();
        },
      });
    }
  }
}
