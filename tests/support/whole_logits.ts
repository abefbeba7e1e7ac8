/** Whole rows of logits, by asking a pass for every id of the vocabulary. */
import type { ForwardInput } from "../../src/forward.ts";
import type { ModelSession } from "../../src/session.ts";

/** Logits [vocabulary] of every asked row, in order, and the log of each row's sum of exp. */
export async function wholeLogits(
  session: ModelSession,
  input: ForwardInput,
  vocabulary: number,
): Promise<{ readonly rows: readonly Float32Array[]; readonly logSumExp: Float32Array }> {
  const watch = Array.from({ length: vocabulary }, (_, id) => id);
  const [{ watched, logSumExp }] = await session.forward([{ ...input, watch }]);
  const rows = input.rows.map((_, n) => watched.slice(n * vocabulary, (n + 1) * vocabulary));
  return { rows, logSumExp };
}
