// @ts-check
/** The numbers below the output. */
import { byId } from "./dom.js";

/** Digits that change faster than this cannot be read. */
const LEAST_MS = 120;

const cells = {
  speed: byId("stat-speed"),
  parallel: byId("stat-parallel"),
  passes: byId("stat-passes"),
  tokens: byId("stat-tokens"),
  blocks: byId("stat-blocks"),
  first: byId("stat-first"),
  elapsed: byId("stat-elapsed"),
};
let shownAt = -Infinity;

/**
 * What frames tell so far.
 *
 * @param {import("./trajectory.js").Trajectory} trajectory
 * @param {number} elapsedMs since the generation was asked for
 * @param {{ last?: boolean }} [options] last: show it even when something was shown just now
 */
export function showProgress(trajectory, elapsedMs, { last = false } = {}) {
  const now = performance.now();
  if (!last && now - shownAt < LEAST_MS) return;
  shownAt = now;
  const { written, passes, blocks, firstFrameMs } = trajectory;
  show({
    tokens: written,
    passes,
    blocks: blocks.filter(({ done }) => done).length,
    tokensPerSecond: written / (elapsedMs / 1000),
    firstMs: firstFrameMs,
    elapsedMs,
  });
}

/**
 * What the server counted.
 *
 * @param {import("./trajectory.js").Trajectory} trajectory
 * @param {{ usage: any, timings: any }} frame
 */
export function showResult(trajectory, { usage, timings }) {
  show({
    tokens: usage.completion_tokens,
    passes: usage.forward_passes,
    blocks: trajectory.blocks.length,
    tokensPerSecond: timings.tokens_per_second,
    firstMs: timings.first_frame_ms,
    elapsedMs: timings.total_ms,
  });
}

/**
 * @param {{ tokens: number, passes: number, blocks: number, tokensPerSecond: number, firstMs: number | undefined,
 *   elapsedMs: number }} numbers
 */
function show({ tokens, passes, blocks, tokensPerSecond, firstMs, elapsedMs }) {
  cells.tokens.textContent = String(tokens);
  cells.passes.textContent = String(passes);
  cells.blocks.textContent = String(blocks);
  cells.parallel.textContent = passes === 0 ? "–" : (tokens / passes).toFixed(2);
  cells.speed.textContent = tokens === 0
    ? "–"
    : tokensPerSecond.toFixed(tokensPerSecond < 100 ? 1 : 0);
  cells.first.textContent = firstMs === undefined ? "–" : duration(firstMs);
  cells.elapsed.textContent = duration(elapsedMs);
}

/** @param {number} ms */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}
