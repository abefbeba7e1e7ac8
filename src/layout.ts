/** How a canvas is laid out: its length, where its blocks begin, and which positions are denoised next. */
import { type BlockGrid, type Canvas, MASKED, type Span } from "./block.ts";
import type { Manifest } from "./manifest.ts";
import type { ResolvedOptions } from "./options.ts";
import type { PassView } from "./passes.ts";

/** Where the blocks of a sequence begin. */
export function gridOf(
  prompt: readonly number[],
  { blockLength: length }: Pick<ResolvedOptions, "blockLength">,
  { blockGrid, tokens: { mask } }: Pick<Manifest, "blockGrid" | "tokens">,
): BlockGrid {
  // holes lie anywhere in the prompt: its end is no special place then
  if (blockGrid === "absolute" || prompt.includes(mask)) return { length, offset: 0 };
  return { length, offset: (length - prompt.length % length) % length };
}

/**
 * Positions of a canvas that is written up to `limit`. A model that counts blocks from position 0 sees its last block whole,
 * also behind the limit.
 */
export function canvasLength(
  limit: number,
  { length }: BlockGrid,
  { attention, blockGrid, architecture }: Pick<
    Manifest,
    "attention" | "blockGrid" | "architecture"
  >,
): number {
  if (attention === "bidirectional" || blockGrid === "prompt") return limit;
  return Math.min(Math.ceil(limit / length) * length, architecture.contextLength);
}

/** What a view is made from. */
export interface ViewFacts {
  readonly block: Span;
  /** First position that must not be written. */
  readonly limit: number;
  readonly subBlockLength: number;
  readonly blockStart: Manifest["blockStart"];
}

/**
 * What the next pass is to tell: the open positions of the leftmost sub-block that has any, or, where the block's first
 * position is predicted by its predecessor, that one alone.
 */
export function viewOf(
  { states }: Canvas,
  { block, limit, subBlockLength, blockStart }: ViewFacts,
): PassView {
  const common = { length: states.length, block };
  const lead = blockStart === "predicted" && block.start > 0 && states[block.start] === MASKED;
  if (lead) return { ...common, subBlock: block, open: [block.start], lead };
  const last = Math.min(block.end, limit);
  let first = block.start;
  while (first < last && states[first] !== MASKED) first++;
  if (first === last) return { ...common, subBlock: block, open: [], lead };
  const start = block.start + Math.floor((first - block.start) / subBlockLength) * subBlockLength;
  const subBlock = { start, end: Math.min(start + subBlockLength, block.end) };
  const open: number[] = [];
  for (let p = first; p < Math.min(subBlock.end, last); p++) {
    if (states[p] === MASKED) open.push(p);
  }
  return { ...common, subBlock, open, lead };
}
