/** Replays a recorded forward pass of reference code through a session: the logits of every row that counts. */
import type { ForwardInput } from "../../src/forward.ts";
import type { ModelSession } from "../../src/session.ts";
import type { ForwardCase } from "./vectors.ts";
import { wholeLogits } from "./whole_logits.ts";

/** Logits [row][vocabulary] of one batch row, and which columns of the recorded input they belong to. */
export interface ReplayedRow {
  readonly batchRow: number;
  readonly columns: readonly number[];
  readonly logits: readonly Float32Array[];
}

/** Every row of `test` as our engine would see it: without padding, over a cache filled as the case says. */
export async function replayForward(
  session: ModelSession,
  test: ForwardCase,
  vocabulary: number,
): Promise<ReplayedRow[]> {
  const rows: ReplayedRow[] = [];
  for (let batchRow = 0; batchRow < test.input_ids.length; batchRow++) {
    rows.push(await replayRow(session, test, batchRow, vocabulary));
    await session.release(0);
  }
  return rows;
}

async function replayRow(
  session: ModelSession,
  test: ForwardCase,
  b: number,
  vocabulary: number,
): Promise<ReplayedRow> {
  const { attention, input_ids, position_ids } = test;
  const columns = input_ids[b].map((_, i) => i).filter((i) => attention.key_mask?.[b][i] !== 0);
  const ids = columns.map((i) => input_ids[b][i]);
  const positions = position_ids?.[b] ?? position_ids?.[0] ?? input_ids[b].map((_, i) => i);
  const start = positions[columns[0]];
  columns.forEach((column, i) => {
    if (positions[column] !== start + i) throw new Error(`${test.name}: positions leave gaps`);
  });
  const length = attention.type === "bidirectional" ? Infinity : attention.block_size!;
  // blocks are counted on recorded columns, padding included, unless a cache stands before them
  const shift = attention.cached ? 0 : columns[0] - start;
  const common = {
    slot: 0,
    blockLength: length,
    blockOffset: Number.isFinite(length) ? ((shift % length) + length) % length : 0,
  };
  const cached = await fillCache(session, test, common);
  const input = { ...common, start, ids, cached, keep: 0, rows: ids.map((_, i) => i) };
  const { rows: logits } = await wholeLogits(session, input, vocabulary);
  return { batchRow: b, columns, logits };
}

/** Fills the cache as a case says; the number of cached positions that the input sees. */
async function fillCache(
  session: ModelSession,
  { attention }: ForwardCase,
  common: Pick<ForwardInput, "slot" | "blockLength">,
): Promise<number> {
  const { prefix_ids, cache_from_ids, cache_slice, block_cache_from_ids } = attention;
  if (!attention.cached) return 0;
  const keep = (start: number, ids: readonly number[], count: number) =>
    session.forward([{ ...common, start, ids, keep: count, rows: [] }]);
  if (cache_from_ids !== undefined) {
    const kept = cache_slice?.[1] ?? cache_from_ids[0].length;
    await keep(0, cache_from_ids[0], kept);
    return kept;
  }
  const [prefix] = prefix_ids!;
  await keep(0, prefix, prefix.length);
  if (block_cache_from_ids === undefined) return prefix.length;
  const [block] = block_cache_from_ids;
  await keep(prefix.length, block, block.length);
  return prefix.length + block.length;
}
