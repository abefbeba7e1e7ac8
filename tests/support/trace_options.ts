/** What the arguments of each reference sampler mean in our words: facts of the model, prompt rows, options. */
import type { Manifest } from "../../src/manifest.ts";
import type { RunOptions } from "../../src/mod.ts";
import type { Trace } from "./vectors.ts";

/** One row of a recorded generation, as our engine runs it. */
export interface TraceRun {
  /** Facts that the sampler, not the checkpoint, decides. */
  readonly facts: Partial<Manifest>;
  readonly eos: readonly number[];
  readonly options: RunOptions;
}

/** Our words for a row's recorded arguments. */
type Translate = (
  trace: Trace,
  row: { readonly prompt: number; readonly canvas: number },
) => TraceRun;

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);
const shiftOf = (p: Trace["params"]): Partial<Manifest> => ({
  logitShift: p.right_shift_logits ? 1 : 0,
});

/** dllm's samplers share schedule and strategy. */
const dllm = (p: Trace["params"]) => ({
  unmasking: "low_confidence_static" as const,
  transferSchedule: "linear" as const,
  cfgScale: p.cfg_scale ?? 0,
  suppressTokens: p.suppress_tokens ?? [],
  deferTokens: p.begin_suppress_tokens ?? [],
});

const bd3lm: Translate = ({ params: p, prompts }) => {
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  const maxTokens: number = p.max_new_tokens ?? p.max_length - longest;
  return {
    facts: { attention: "block-causal", cache: "block", blockGrid: "prompt", ...shiftOf(p) },
    eos: [p.eos_id],
    options: {
      ...dllm(p),
      maxTokens,
      blockLength: p.block_size,
      denoisingSteps: p.steps_per_block ?? ceilDiv(p.steps, ceilDiv(maxTokens, p.block_size)),
    },
  };
};

const mdlm: Translate = ({ params: p }, { prompt, canvas }) => ({
  facts: { attention: "bidirectional", cache: "none", blockGrid: "prompt", ...shiftOf(p) },
  eos: [], // it never stops early
  options: {
    ...dllm(p),
    maxTokens: canvas - prompt,
    blockLength: p.block_size ?? canvas,
    denoisingSteps: ceilDiv(p.steps, ceilDiv(canvas - prompt, p.block_size ?? canvas)),
  },
});

const infill: Translate = ({ params: p, prompts }) => {
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  const blockLength = p.block_size ?? longest;
  return {
    facts: { attention: "bidirectional", cache: "none", blockGrid: "prompt", ...shiftOf(p) },
    eos: [],
    options: {
      ...dllm(p),
      maxTokens: 0,
      blockLength,
      denoisingSteps: ceilDiv(p.steps, ceilDiv(longest, blockLength)),
    },
  };
};

const llada: Translate = ({ params: p }) => ({
  facts: {},
  eos: [],
  options: {
    unmasking: "low_confidence_static",
    transferSchedule: "even",
    maxTokens: p.gen_length,
    blockLength: p.block_length,
    denoisingSteps: Math.floor(p.steps / (p.gen_length / p.block_length)),
    cfgScale: p.cfg_scale ?? 0,
    suppressTokens: p.logits_eos_inf ? [p.eos_id] : [],
    deferTokens: p.confidence_eos_eot_inf ? [p.eos_id, p.eot_id] : [],
  },
});

const DREAM_ALGORITHMS = {
  entropy: "entropy",
  maskgit_plus: "low_confidence_static",
  topk_margin: "margin",
  origin: "origin",
} as const;

const dream: Translate = ({ params: p, uniforms }) => {
  const draws = (uniforms ?? []).slice(0, -1).flat(); // the last step takes all, whatever is drawn
  return {
    facts: {},
    eos: [],
    options: {
      // one of the table's keys, or the test fails on an unknown option
      unmasking: DREAM_ALGORITHMS[p.alg as keyof typeof DREAM_ALGORITHMS],
      transferSchedule: "timestep",
      confidenceOf: "sampling",
      timestepEpsilon: p.eps,
      maxTokens: p.max_new_tokens,
      denoisingSteps: p.steps,
      ...(p.top_p === null ? {} : { topP: p.top_p }),
      ...(p.top_k === null ? {} : { topK: p.top_k }),
      random: () => {
        const draw = draws.shift();
        if (draw === undefined) throw new Error("more draws than were recorded");
        return draw;
      },
    },
  };
};

const sdar: Translate = ({ params: p }, { prompt, canvas }) => ({
  facts: {},
  eos: p.stop_ids,
  options: {
    unmasking: p.remasking_strategy ??
      (p.threshold < 1 ? "low_confidence_dynamic" : "low_confidence_static"),
    transferSchedule: "even_block",
    confidenceThreshold: p.confidence_threshold ?? p.threshold,
    maxTokens: canvas - prompt, // the reference rounds up to whole blocks
    blockLength: p.block_length,
    denoisingSteps: p.denoising_steps,
  },
});

const fastDllmV1 = (nvlabs: boolean): Translate => ({ params: p }) => {
  const maxTokens: number = p.gen_length ?? p.max_new_tokens;
  const blockLength: number = p.block_length ?? p.block_size;
  const factor = p.factor !== undefined && p.factor !== null;
  const threshold = p.threshold !== undefined && p.threshold !== null;
  return {
    facts: {},
    eos: [],
    options: {
      unmasking: factor
        ? nvlabs ? "factor_with_last" : "factor"
        : threshold
        ? "threshold"
        : "low_confidence_static",
      transferSchedule: nvlabs ? "even" : "linear",
      ...(factor ? { confidenceFactor: p.factor } : {}),
      ...(threshold ? { confidenceThreshold: p.threshold } : {}),
      maxTokens,
      blockLength,
      denoisingSteps: ceilDiv(p.steps, ceilDiv(maxTokens, blockLength)),
      approximateCache: p.cache === "none" ? "off" : p.cache,
    },
  };
};

const fastDllmV2: Translate = ({ params: p }, { prompt }) => ({
  facts: {},
  eos: [p.stop_id],
  options: {
    unmasking: "low_confidence_dynamic",
    confidenceThreshold: p.threshold,
    maxTokens: (Math.floor(prompt / p.block_size) + Math.floor(p.max_new_tokens / p.block_size)) *
        p.block_size - prompt,
    blockLength: p.block_size,
    subBlockLength: p.small_block_size,
    approximateCache: p.use_block_cache ? "dual" : "off",
  },
});

const llada2 = (stops: boolean): Translate => ({ params: p }, { prompt, canvas }) => {
  const blockLength: number = p.block_length ?? p.block_size;
  const most = Math.floor((p.gen_length ?? p.max_new_tokens) / (p.minimal_topk ?? 1));
  return {
    facts: {},
    eos: stops ? [p.eos_id] : [],
    options: {
      unmasking: "low_confidence_dynamic",
      transferSchedule: "even_block",
      confidenceThreshold: p.threshold,
      maxTokens: canvas - prompt,
      blockLength,
      denoisingSteps: Math.min(p.steps ?? p.steps_per_block ?? blockLength, most),
    },
  };
};

/** By the name of the reference sampler. */
export const TRANSLATE: Readonly<Record<string, Translate>> = {
  bd3lm,
  mdlm,
  "mdlm.infill": infill,
  "llada.generate": llada,
  "dream.diffusion_generate": dream,
  "sdar.generate": sdar,
  "sdar.generate.top_k1": sdar,
  "sdar.opencompass": sdar,
  "fastdllm.v1": fastDllmV1(true),
  "dllm.fastdllm_llada": fastDllmV1(false),
  "fastdllm.v2.generate": fastDllmV2,
  "fastdllm.v2.batch_sample": fastDllmV2,
  "llada2.generate": llada2(true),
  "dllm.llada2": llada2(false),
};
