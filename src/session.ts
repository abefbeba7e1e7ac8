/**
 * ModelSession: token ids in, candidates out, over one Runner. The only file that knows the graph's tensor names.
 *
 * Every phase is the same call. A sequence hands over a run of ids, says what of its cache they see beside each other, how
 * many of them to keep in the cache and for which of them it wants candidates: prefill keeps all and asks none, denoise
 * keeps none and asks the masked ones, commit keeps a finished block — and may carry the next block behind it, to save a
 * pass.
 */
import {
  type Backend,
  type BackendName,
  type BackendOptions,
  type HostTensor,
  openBackend,
  type Runner,
} from "./backend/backend.ts";
import { serialQueue } from "./backend/queue.ts";
import { EngineError, messageOf } from "./errors.ts";
import { buildTransformer, TENSORS } from "./graph/transformer.ts";
import { WeightLayout } from "./graph/weights.ts";
import type { Manifest } from "./manifest.ts";
import { CANDIDATES } from "./decoding.ts";
import { parseSafetensors } from "./safetensors.ts";
import type { Candidates } from "./sampler.ts";

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

/** Runs forward passes for the engine; scripted in tests, in a Worker in the server. */
export interface ModelSession {
  /** What it runs on, for people. */
  readonly description: string;
  readonly backend: BackendName;
  /** Most sequences of one pass. */
  readonly batch: number;
  /** Whether it is lost for good, and every pass will fail. */
  readonly failed?: boolean;
  /** One pass for all `inputs`; candidates of each, in order of its `rows`. */
  forward(inputs: readonly ForwardInput[]): Promise<Candidates[]>;
  /** Forgets the cached positions of a slot, unconditional ones too. */
  release(slot: number): Promise<void>;
  close(): Promise<void>;
}

/** Everything that a session is opened from; it can be sent to a Worker. */
export interface SessionPlan {
  readonly manifest: Manifest;
  /** The whole weights file. */
  readonly weights: Uint8Array;
  /** Backends to try, in order. */
  readonly backends: readonly BackendName[];
  readonly options: BackendOptions;
}

/** A key block beyond every query: padding that nothing sees. */
const PADDING_BLOCK = 1e9;

/** Where the unconditional keys and values of a slot lie. */
const guideSlot = (slot: number) => -1 - slot;

/** One batch row: an input, or the unconditional twin of one. */
interface Lane {
  readonly slot: number;
  readonly ids: readonly number[];
  readonly cached: number;
  readonly input: ForwardInput;
}

/** The batch rows of a pass: first of all inputs, then of what guides them. */
function lanesOf(inputs: readonly ForwardInput[]): Lane[] {
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

/**
 * Opens a session in this thread.
 *
 * @throws {EngineError} `backend_unavailable` | `backend_failed` | `bundle_invalid`
 */
export async function openSession(plan: SessionPlan): Promise<ModelSession> {
  const backend = await openBackend(plan.backends, plan.options);
  const { architecture } = plan.manifest;
  const candidates = Math.min(CANDIDATES, architecture.vocabSize);
  const layout = new WeightLayout(
    parseSafetensors(plan.weights, plan.manifest.files.weights.path),
    plan.weights,
    backend,
  );
  const model = buildTransformer(architecture, layout, { candidates });
  const layers = Array.from({ length: architecture.layers }, (_, i) => i);
  const runner = await backend.open({
    model,
    files: layout.externalFiles(),
    pastInputs: layers.flatMap((i) => [TENSORS.pastKey(i), TENSORS.pastValue(i)]),
    newOutputs: layers.flatMap((i) => [TENSORS.newKey(i), TENSORS.newValue(i)]),
    width: architecture.kvHeads * architecture.headDim,
  });
  return new RunnerSession(backend, runner, plan.manifest, candidates);
}

class RunnerSession implements ModelSession {
  readonly description: string;
  readonly backend: BackendName;
  readonly batch: number;
  #enqueue = serialQueue(); // runners are not reentrant
  #groups: number;
  #context: number;
  #vocabulary: number;
  #minPast: number;

  constructor(
    backend: Backend,
    readonly runner: Runner,
    manifest: Manifest,
    readonly width: number,
  ) {
    this.description = backend.description;
    this.backend = backend.name;
    this.batch = backend.batch;
    const { heads, kvHeads, contextLength, vocabSize } = manifest.architecture;
    this.#groups = heads / kvHeads;
    this.#context = contextLength;
    this.#vocabulary = vocabSize;
    this.#minPast = backend.name === "webgpu" ? 1 : 0; // a GPU buffer cannot be empty
  }

  forward(inputs: readonly ForwardInput[]): Promise<Candidates[]> {
    inputs.forEach((input) => this.#check(input));
    return this.#enqueue(() => this.#forward(inputs));
  }

  release(slot: number): Promise<void> {
    return this.#enqueue(() => {
      this.runner.release(slot);
      this.runner.release(guideSlot(slot));
      return Promise.resolve();
    });
  }

  close(): Promise<void> {
    return this.#enqueue(() => this.runner.close());
  }

  /** WebGPU reads out-of-range ids without an error, so ranges are checked here. */
  #check(
    { ids, start, cached = start, keep, rows, blockLength, watch = [], guidance }: ForwardInput,
  ) {
    const end = start + ids.length;
    if (ids.length === 0 || !(start >= 0 && cached >= 0) || Math.max(end, cached) > this.#context) {
      throw new RangeError(`positions ${start}-${end} behind ${cached} cached ones`);
    }
    if (!(blockLength > 0)) throw new RangeError(`block length ${blockLength}`);
    if (!(keep >= 0 && keep <= ids.length)) {
      throw new RangeError(`cannot keep ${keep} of ${ids.length} ids`);
    }
    for (const id of [...ids, ...watch, ...guidance?.ids ?? []]) {
      if (!(id >= 0 && id < this.#vocabulary)) throw new RangeError(`token id ${id}`);
    }
    for (const row of rows) {
      if (!(row >= 0 && row < ids.length)) throw new RangeError(`row ${row} of ${ids.length}`);
    }
    if (guidance !== undefined && guidance.ids.length !== ids.length) {
      throw new RangeError(`${guidance.ids.length} unconditional ids beside ${ids.length}`);
    }
  }

  async #forward(inputs: readonly ForwardInput[]): Promise<Candidates[]> {
    const lanes = lanesOf(inputs);
    const length = Math.max(...lanes.map(({ ids }) => ids.length));
    const past = Math.max(this.#minPast, ...lanes.map(({ cached }) => cached));
    const watch = [...new Set(inputs.flatMap((input) => input.watch ?? []))];
    const rows = this.#rows(inputs, length);
    const count = Math.max(1, rows.asked.length); // the graph needs at least one row
    const int32 = (values: readonly number[], size: number) => ({
      type: "int32" as const,
      dims: [size],
      data: Int32Array.from({ length: size }, (_, i) => values[i] ?? 0),
    });
    const outputs = await this.#run(lanes, past, {
      ...this.#positions(lanes, length, past),
      [TENSORS.rows]: int32(rows.asked, count),
      [TENSORS.guideRows]: int32(rows.guides, count),
      [TENSORS.guideScale]: {
        type: "float32",
        dims: [count, 1],
        data: Float32Array.from({ length: count }, (_, i) => rows.scales[i] ?? 0),
      },
      [TENSORS.watch]: int32(watch, Math.max(1, watch.length)),
    }, { wantsCandidates: rows.asked.length > 0, wantsWatched: watch.length > 0 });
    return this.#split(inputs, outputs, watch);
  }

  /** What stands where, and who sees whom. */
  #positions(lanes: readonly Lane[], length: number, past: number): Record<string, HostTensor> {
    const batch = lanes.length;
    const ids = new BigInt64Array(batch * length);
    const positions = new BigInt64Array(batch * length);
    const queryBlock = new Float32Array(batch * length * this.#groups).fill(-1);
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
        const at = (b * length + i) * this.#groups;
        queryBlock.fill(block, at, at + this.#groups);
      });
    });
    const dims = [batch, length];
    return {
      [TENSORS.inputIds]: { type: "int64", dims, data: ids },
      [TENSORS.positionIds]: { type: "int64", dims, data: positions },
      [TENSORS.queryBlock]: {
        type: "float32",
        dims: [batch, length * this.#groups],
        data: queryBlock,
      },
      [TENSORS.keyBlock]: { type: "float32", dims: [batch, past + length], data: keyBlock },
    };
  }

  /** The asked rows of the flattened batch, what guides each (itself where nothing does) and how much. */
  #rows(inputs: readonly ForwardInput[], length: number) {
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

  async #run(
    lanes: readonly Lane[],
    past: number,
    inputs: Readonly<Record<string, HostTensor>>,
    wants: { readonly wantsCandidates: boolean; readonly wantsWatched: boolean },
  ) {
    const { candidateLogits, candidateIds, logSumExp, entropy, watchedLogits } = TENSORS;
    try {
      return await this.runner.run({
        inputs,
        past: { slots: lanes.map((lane) => lane.slot), length: past },
        // one small output is always fetched: a run with none is an error
        outputs: wants.wantsCandidates
          ? [
            candidateLogits,
            candidateIds,
            logSumExp,
            entropy,
            ...(wants.wantsWatched ? [watchedLogits] : []),
          ]
          : [logSumExp],
        append: lanes.flatMap(({ slot, input: { start, keep } }, row) =>
          keep > 0 ? [{ row, slot, at: start, count: keep }] : []
        ),
      });
    } catch (cause) {
      throw new EngineError("backend_failed", `forward pass: ${messageOf(cause)}`, { cause });
    }
  }

  #split(
    inputs: readonly ForwardInput[],
    outputs: Awaited<ReturnType<Runner["run"]>>,
    watch: readonly number[],
  ): Candidates[] {
    const logits = outputs[TENSORS.candidateLogits]?.data;
    const ids = outputs[TENSORS.candidateIds]?.data;
    const lse = outputs[TENSORS.logSumExp].data;
    const entropy = outputs[TENSORS.entropy]?.data;
    const watched = outputs[TENSORS.watchedLogits]?.data ?? new Float32Array(0);
    const width = this.width;
    const columns = new Map(watch.map((id, column) => [id, column]));
    let at = 0;
    return inputs.map((input) => {
      const from = at;
      at += input.rows.length;
      if (
        input.rows.length === 0 || !(logits instanceof Float32Array) ||
        !(ids instanceof BigInt64Array) || !(lse instanceof Float32Array) ||
        !(entropy instanceof Float32Array) || !(watched instanceof Float32Array)
      ) return emptyCandidates(width);
      for (let n = from; n < at; n++) {
        if (!Number.isFinite(lse[n]) || !Number.isFinite(logits[n * width])) {
          throw new EngineError("backend_failed", "the model's output is not finite");
        }
      }
      const mine = input.watch ?? [];
      return {
        width,
        logits: logits.slice(from * width, at * width),
        ids: Int32Array.from(ids.subarray(from * width, at * width), Number),
        logSumExp: lse.slice(from, at),
        entropy: entropy.slice(from, at),
        watched: Float32Array.from({ length: input.rows.length * mine.length }, (_, i) => {
          const column = columns.get(mine[i % mine.length]) ?? 0;
          return watched[(from + Math.floor(i / mine.length)) * watch.length + column];
        }),
      };
    });
  }
}

/** The candidates of no rows. */
export function emptyCandidates(width: number): Candidates {
  return {
    width,
    logits: new Float32Array(0),
    ids: new Int32Array(0),
    logSumExp: new Float32Array(0),
    entropy: new Float32Array(0),
    watched: new Float32Array(0),
  };
}
