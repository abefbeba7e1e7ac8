/** From results to figures: one row for each model, block length and threshold. */
import type { Result, Scored, Written } from "./store.ts";

/** A row of the table of a suite that writes. */
export interface WritingRow {
  readonly model: string;
  readonly blockLength: number;
  readonly threshold: number;
  readonly tasks: number;
  /** Share that passed. */
  readonly quality: number;
  /** Standard error of `quality`. */
  readonly error: number;
  /** Tokens that one forward pass yields, over all tasks. */
  readonly tokensPerForward: number;
  /** Share that parses, where the suite parses. */
  readonly parses?: number;
  /** How many ended in each way. */
  readonly outcomes: Readonly<Record<string, number>>;
}

/** A row of the table of bits per byte. */
export interface BitsRow {
  readonly model: string;
  readonly blockLength: number;
  readonly tasks: number;
  readonly bytes: number;
  readonly bitsPerByte: number;
  /** Standard error from the choice of texts. */
  readonly error: number;
  /** Standard error from the draws of masks alone, the texts being the same. */
  readonly maskError: number;
}

export type Row = WritingRow | BitsRow;

/** Summarises the results of one setting. */
export function summarise(results: readonly Result[], options: { readonly parses: boolean }): Row {
  const scored = results.filter((result) => "nats" in result);
  if (scored.length > 0) return bitsRow(scored);
  return writingRow(results.filter((result) => "outcome" in result), options.parses);
}

function writingRow(results: readonly Written[], parses: boolean): WritingRow {
  const { model, blockLength, threshold } = results[0];
  const outcomes: Record<string, number> = {};
  for (const { outcome } of results) outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  const tasks = results.length;
  const quality = (outcomes.passed ?? 0) / tasks;
  const unparsed = (outcomes.syntax ?? 0) + (outcomes.context ?? 0);
  const tokens = sum(results.map((result) => result.tokens));
  const passes = sum(results.map((result) => result.passes));
  return {
    model,
    blockLength,
    threshold,
    tasks,
    quality,
    error: Math.sqrt(quality * (1 - quality) / tasks),
    tokensPerForward: passes === 0 ? 0 : tokens / passes,
    ...parses ? { parses: 1 - unparsed / tasks } : {},
    outcomes,
  };
}

/** The ratio of sums, with the errors of a ratio (delta method): texts and draws vary independently. */
function bitsRow(results: readonly Scored[]): BitsRow {
  const { model, blockLength } = results[0];
  const bits = results.map(({ nats }) => mean(nats) / Math.LN2);
  const bytes = sum(results.map((result) => result.bytes));
  const bitsPerByte = sum(bits) / bytes;
  const texts = results.length;
  const residuals = results.map((result, i) => (bits[i] - bitsPerByte * result.bytes) ** 2);
  const masks = results.map(({ nats }) => variance(nats) / nats.length / Math.LN2 ** 2);
  return {
    model,
    blockLength,
    tasks: texts,
    bytes,
    bitsPerByte,
    error: texts < 2 ? NaN : Math.sqrt(sum(residuals) * texts / (texts - 1)) / bytes,
    maskError: Math.sqrt(sum(masks)) / bytes,
  };
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const mean = (values: readonly number[]) => sum(values) / values.length;

/** Unbiased; NaN of one value. */
function variance(values: readonly number[]): number {
  const middle = mean(values);
  return sum(values.map((value) => (value - middle) ** 2)) / (values.length - 1);
}

const percent = (share: number) => (100 * share).toFixed(1);
const orDash = (value: number, digits: number) =>
  Number.isFinite(value) ? value.toFixed(digits) : "–";

/** The rows as a Markdown table. */
export function markdownTable(rows: readonly Row[], quality: string): string {
  const parses = rows.some((row) => "quality" in row && row.parses !== undefined);
  const head = rows.some((row) => "bitsPerByte" in row)
    ? ["model", "block", "bits per byte", "± texts", "± masks", "texts", "bytes"]
    : ["model", "block", "threshold", `${quality}, %`, "±", "tokens per forward", "tasks"]
      .concat(parses ? ["parses, %"] : []);
  const cells = rows.map((row) =>
    "bitsPerByte" in row
      ? [
        row.model,
        `${row.blockLength}`,
        row.bitsPerByte.toFixed(3),
        orDash(row.error, 3),
        orDash(row.maskError, 4),
        `${row.tasks}`,
        `${row.bytes}`,
      ]
      : [
        row.model,
        `${row.blockLength}`,
        `${row.threshold}`,
        percent(row.quality),
        percent(row.error),
        row.tokensPerForward.toFixed(2),
        `${row.tasks}`,
        ...row.parses === undefined ? [] : [percent(row.parses)],
      ]
  );
  const all = [head, ...cells];
  const widths = head.map((_, i) => Math.max(...all.map((line) => [...line[i]].length)));
  const line = (texts: readonly string[]) =>
    `| ${texts.map((text, i) => text.padEnd(widths[i])).join(" | ")} |`;
  const rule = line(widths.map((width) => "-".repeat(width)));
  return [line(head), rule, ...cells.map(line)].join("\n") + "\n";
}
