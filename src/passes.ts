/**
 * Passes: which part of a canvas the next forward pass reads, and what it leaves in the cache. One maker per way to use a
 * cache; each sequence owns what it makes.
 *
 * Whatever is settled but not yet cached goes in front of the current block in the same pass. So the last part of a prompt,
 * and each finished block, is committed by the pass that denoises what follows it: no pass of its own.
 */
import { blockAt, type BlockGrid, type Span } from "./block.ts";
import type { Manifest } from "./manifest.ts";
import type { ApproximateCache } from "./options.ts";

/** Prompt tokens that one pass takes at most: bounds how long others wait for a long prompt. */
export const PREFILL_CHUNK = 256;

/** What a sequence wants to know next. */
export interface PassView {
  /** Positions of the whole canvas. */
  readonly length: number;
  readonly block: Span;
  /** The part of the block that is denoised now. */
  readonly subBlock: Span;
  /** Positions whose candidates are wanted, in order. */
  readonly open: readonly number[];
  /** Only the first position of the block is wanted, as its predecessor alone predicts it. */
  readonly lead: boolean;
}

/** A pass over the positions `start` … `end` of a canvas. */
export interface Pass extends Span {
  /** Cached positions that are seen, those of this pass excepted. */
  readonly cached: number;
  /** Positions up to here are cached by this pass. */
  readonly keepTo: number;
  /** Positions whose rows are wanted, in the order of the view's open positions; none when only the cache is filled. */
  readonly rows: readonly number[];
}

/** The passes of one sequence. */
export interface Passes {
  /** Whether the next pass, before `block` can be denoised, only caches a part of the prompt. */
  prefilling(block: Span): boolean;
  next(view: PassView): Pass;
  /** Tells that a pass was run. */
  taken(pass: Pass, view: PassView): void;
}

/** What passes are made from. */
export interface PassFacts extends Pick<Manifest, "attention" | "logitShift"> {
  readonly grid: BlockGrid;
  readonly approximateCache: ApproximateCache;
}

/** The passes that suit a model and the caller's choice of cache. */
export function makePasses(facts: PassFacts): Passes {
  return facts.attention === "block-causal" ? blockPasses(facts) : canvasPasses(facts);
}

/** Block-causal attention: finished blocks are cached for good. */
function blockPasses({ grid, logitShift, approximateCache }: PassFacts): Passes {
  /** positions whose keys and values are in the cache for good: whole blocks */
  let cached = 0;
  /** end of the block whose unfinished keys and values lie behind them, for the approximate cache */
  let stored = -1;
  const dual = approximateCache === "dual";
  const prefilling = (block: Span) => block.start - cached > PREFILL_CHUNK;
  return {
    prefilling,
    next({ length, block, subBlock, open, lead }) {
      if (prefilling(block)) {
        const end = Math.max(
          blockAt(grid, cached + PREFILL_CHUNK, length).start,
          blockAt(grid, cached, length).end,
        );
        return { start: cached, end, cached, keepTo: end, rows: [] };
      }
      if (lead) {
        const end = block.start;
        return { start: cached, end, cached, keepTo: end, rows: [end - 1] };
      }
      const rows = open.map((position) => Math.max(0, position - logitShift));
      if (dual && stored === block.end && open[0] !== subBlock.start) {
        return { ...subBlock, cached: block.end, keepTo: subBlock.end, rows };
      }
      // a shifted row may be the last cached position: it is read again, over its own cached entry
      const start = Math.min(cached, rows[0]);
      const keepTo = dual ? block.end : start < cached ? start : block.start;
      return { start, end: block.end, cached, keepTo, rows };
    },
    taken({ keepTo }, { block }) {
      cached = Math.max(cached, Math.min(keepTo, block.start));
      if (dual && keepTo === block.end) stored = block.end;
    },
  };
}

/**
 * Bidirectional attention: every pass reads the whole canvas, unless the caller chose to reuse what the first pass of a
 * block saw: keys and values before the block ("prefix"), or of all but the block ("dual"; Fast-dLLM, 2505.22618).
 */
function canvasPasses({ logitShift, approximateCache }: PassFacts): Passes {
  /** start of the block whose first pass filled the cache */
  let primed = -1;
  return {
    prefilling: () => false,
    next({ length, block, open }) {
      const rows = open.map((position) => Math.max(0, position - logitShift));
      const from = Math.max(0, block.start - logitShift);
      if (approximateCache === "off") {
        return { start: 0, end: length, cached: 0, keepTo: 0, rows };
      }
      if (primed !== block.start) {
        const keepTo = approximateCache === "prefix" ? from : length;
        return { start: 0, end: length, cached: 0, keepTo, rows };
      }
      return approximateCache === "prefix"
        ? { start: from, end: length, cached: from, keepTo: from, rows }
        : { start: from, end: block.end, cached: length, keepTo: from, rows };
    },
    taken(_, { block }) {
      primed = block.start;
    },
  };
}
