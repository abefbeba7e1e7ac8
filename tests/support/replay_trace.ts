/** Replays a recorded generation of reference code: one engine run per row, canvas by canvas. */
import { Engine } from "../../src/engine.ts";
import type { EndFrame } from "../../src/frame.ts";
import type { Manifest } from "../../src/manifest.ts";
import type { ModelSession } from "../../src/session.ts";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { TRANSLATE } from "./trace_options.ts";
import type { Trace } from "./vectors.ts";

/** One row of a recorded generation and of ours. */
export interface ReplayedTrace {
  readonly prompt: readonly number[];
  /** The recorded canvases without padding, from prompt and masks on; repetitions dropped. */
  readonly expected: readonly (readonly number[])[];
  /** Ours after each pass that changed anything, from prompt and masks on. */
  readonly ours: readonly (readonly number[])[];
  /** The recorded result without padding, from the prompt on; cut where the reference cuts it. */
  readonly final: readonly number[];
  readonly end: EndFrame;
  readonly eos: readonly number[];
}

/** Runs every row of `trace`; the rows of a recorded batch do not depend on each other. */
export async function replayTrace(
  session: ModelSession,
  manifest: Manifest,
  trace: Trace,
): Promise<ReplayedTrace[]> {
  const rows: ReplayedTrace[] = [];
  for (let row = 0; row < trace.prompts.length; row++) {
    rows.push(await replayRow(session, manifest, trace, row));
  }
  return rows;
}

async function replayRow(
  session: ModelSession,
  manifest: Manifest,
  trace: Trace,
  row: number,
): Promise<ReplayedTrace> {
  const translate = TRANSLATE[trace.sampler];
  if (translate === undefined) throw new Error(`unknown sampler ${trace.sampler}`);
  const { mask_id: mask, pad_id: pad } = trace.params;
  const padded = trace.prompts[row];
  const hidden = trace.attention_mask?.[row].filter((seen) => seen === 0).length ?? 0;
  const prompt = padded.slice(hidden);
  const left = leftPadding(trace, row, pad) + hidden;
  const right = rightPadding(trace, row);
  const canvases = trace.states.map((state) => state[row].slice(left, state[row].length - right));
  const canvas = Math.max(...canvases.map((one) => one.length));
  const { facts, eos, options } = translate(trace, { prompt: prompt.length, canvas });
  const engine = new Engine(
    {
      ...manifest,
      ...facts,
      tokens: { mask, eos: [...eos] }, // the references propose whatever is most likely, padding too
      blockLength: { default: options.blockLength ?? "canvas" },
      defaults: {},
    },
    byteTokenizer(),
    session,
  );

  const length = Math.max(canvas, prompt.length + (options.maxTokens ?? 0));
  const filled = (ids: readonly number[]) => [
    ...ids,
    ...new Array(length - ids.length).fill(mask),
  ];
  const now = filled(prompt);
  const ours = [[...now]];
  let end: EndFrame | undefined;
  for await (const frame of engine.denoise(prompt, options)) {
    if (frame.type === "end") end = frame;
    if (frame.type !== "draft" && frame.type !== "commit") continue;
    frame.tokens.forEach(({ id }, i) => now[frame.start + i] = id);
    ours.push([...now]);
  }
  if (end === undefined) throw new Error("no end frame");
  return {
    prompt,
    expected: withoutRepetitions([prompt, ...canvases].map(filled)),
    ours: withoutRepetitions(ours),
    final: resultOf(trace, row, prompt, { left, right }),
    end,
    eos,
  };
}

/** Some references return the whole canvas, one the generated part only. */
function resultOf(
  { final, sampler }: Trace,
  row: number,
  prompt: readonly number[],
  { left, right }: { readonly left: number; readonly right: number },
): readonly number[] {
  const ids = final[row];
  return sampler === "llada2.generate" ? [...prompt, ...ids] : ids.slice(left, ids.length - right);
}

/** Padding columns that a sampler puts before the prompt of a row. */
function leftPadding({ sampler, states, prompts }: Trace, row: number, pad: number): number {
  if (sampler !== "bd3lm") return 0;
  const canvas = states[0][row], prompt = prompts[row];
  const columns = canvas.length - prompt.length;
  if (canvas.slice(0, columns).some((id) => id !== pad)) throw new Error("not left-padded");
  return columns;
}

/** Padding columns behind a row, where the canvas has the length of the longest. */
function rightPadding({ sampler, prompts }: Trace, row: number): number {
  if (!sampler.startsWith("mdlm")) return 0;
  return Math.max(...prompts.map((prompt) => prompt.length)) - prompts[row].length;
}

function withoutRepetitions(canvases: readonly (readonly number[])[]): (readonly number[])[] {
  return canvases.filter((ids, i) => i === 0 || ids.join() !== canvases[i - 1].join());
}
