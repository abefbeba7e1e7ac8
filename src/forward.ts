/** A forward pass as sequences ask for it, and the batch that it becomes: ids, positions, and who sees whom. */

/** What one sequence brings to a forward pass. */
export interface ForwardInput {
  /** Cache slot of the sequence. */
  readonly slot: number;
  /** Position of `ids[0]`. */
  readonly start: number;
  readonly ids: readonly number[];
  /** Cached positions 0 … `cached` are seen too, except those that `ids` stand for; `start` unless set. */
  readonly cached?: number;
  /** Positions attend to every position of their own block and of earlier ones; Infinity: of the whole canvas. */
  readonly blockLength: number;
  /** Positions that the first block lacks: blocks start at multiples of the length, less this. 0 unless set. */
  readonly blockOffset?: number;
  /** How many leading ids to put into the cache, at their positions. */
  readonly keep: number;
  /** Indices into `ids` whose candidates are wanted. */
  readonly rows: readonly number[];
  /** Ids whose own logits are wanted for every row. */
  readonly watch?: readonly number[];
  /**
   * Classifier-free guidance: logits become `conditional + scale * (conditional - unconditional)`, where the unconditional
   * ones come from these ids over a cache of their own.
   */
  readonly guidance?: { readonly scale: number; readonly ids: readonly number[] };
}

/** A key block beyond every query: padding that nothing sees. */
const PADDING_BLOCK = 1e9;

/** Where the unconditional keys and values of a slot lie. */
export const guideSlot = (slot: number) => -1 - slot;

/** One batch row: an input, or the unconditional twin of one. */
export interface Lane {
  readonly slot: number;
  readonly ids: readonly number[];
  readonly cached: number;
  readonly input: ForwardInput;
}

/** The batch rows of a pass: first of all inputs, then of what guides them. */
export function lanesOf(inputs: readonly ForwardInput[]): Lane[] {
  const lane = (input: ForwardInput, slot: number, ids: readonly number[]): Lane => {
    return { slot, ids, cached: input.cached ?? input.start, input };
  };
  return [
    ...inputs.map((input) => lane(input, input.slot, input.ids)),
    ...inputs.flatMap((input) =>
      input.guidance === undefined ? [] : [lane(input, guideSlot(input.slot), input.guidance.ids)]
    ),
  ];
}

/** What stands where in a batch of lanes, and who sees whom: a query sees the keys of blocks up to its own. */
export interface Placement {
  /** [B, L] */
  readonly ids: BigInt64Array;
  /** [B, L] */
  readonly positions: BigInt64Array;
  /** [B, L * groups] */
  readonly queryBlock: Float32Array;
  /** [B, past + L] */
  readonly keyBlock: Float32Array;
}

/**
 * Places lanes side by side, each padded to `length` ids behind `past` cached positions.
 *
 * @param groups how often each query's block number is repeated
 */
export function place(
  lanes: readonly Lane[],
  { length, past, groups }: {
    readonly length: number;
    readonly past: number;
    readonly groups: number;
  },
): Placement {
  const batch = lanes.length;
  const ids = new BigInt64Array(batch * length);
  const positions = new BigInt64Array(batch * length);
  const queryBlock = new Float32Array(batch * length * groups).fill(-1);
  const keyBlock = new Float32Array(batch * (past + length)).fill(PADDING_BLOCK);
  lanes.forEach((lane, b) => {
    const { start, blockLength, blockOffset = 0 } = lane.input;
    const blockOf = (position: number) => Math.floor((position + blockOffset) / blockLength);
    const keys = b * (past + length);
    for (let p = 0; p < lane.cached; p++) {
      const replaced = p >= start && p < start + lane.ids.length;
      if (!replaced) keyBlock[keys + p] = blockOf(p);
    }
    lane.ids.forEach((id, i) => {
      const block = blockOf(start + i);
      ids[b * length + i] = BigInt(id);
      positions[b * length + i] = BigInt(start + i);
      keyBlock[keys + past + i] = block;
      const at = (b * length + i) * groups;
      queryBlock.fill(block, at, at + groups);
    });
  });
  return { ids, positions, queryBlock, keyBlock };
}

/** The asked rows of a batch padded to `length` ids, what guides each (itself where nothing does) and how much. */
export function askedRows(inputs: readonly ForwardInput[], length: number): {
  readonly asked: readonly number[];
  readonly guides: readonly number[];
  readonly scales: readonly number[];
} {
  const asked: number[] = [], guides: number[] = [], scales: number[] = [];
  let guide = inputs.length; // batch row of the next unconditional twin
  inputs.forEach((input, b) => {
    const twin = input.guidance === undefined ? b : guide++;
    for (const row of input.rows) {
      asked.push(b * length + row);
      guides.push(twin * length + row);
      scales.push(input.guidance?.scale ?? 0);
    }
  });
  return { asked, guides, scales };
}
