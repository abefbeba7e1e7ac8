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
import { CANDIDATES } from "./decoding.ts";
import { EngineError, messageOf } from "./errors.ts";
import { askedRows, type ForwardInput, guideSlot, type Lane, lanesOf, place } from "./forward.ts";
import { buildTransformer, TENSORS } from "./graph/transformer.ts";
import { WeightLayout } from "./graph/weights.ts";
import type { Manifest } from "./manifest.ts";
import { parseSafetensors } from "./safetensors.ts";
import type { Candidates } from "./sampler.ts";

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

/** A vector of indices; the graph needs at least one. */
function indices(values: readonly number[]): HostTensor {
  const data = Int32Array.from(values.length > 0 ? values : [0]);
  return { type: "int32", dims: [data.length], data };
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
    const batch = lanes.length;
    const length = Math.max(...lanes.map(({ ids }) => ids.length));
    const past = Math.max(this.#minPast, ...lanes.map(({ cached }) => cached));
    const groups = this.#groups;
    const { ids, positions, queryBlock, keyBlock } = place(lanes, { length, past, groups });
    const { asked, guides, scales } = askedRows(inputs, length);
    const watch = [...new Set(inputs.flatMap((input) => input.watch ?? []))];
    const outputs = await this.#run(lanes, past, {
      [TENSORS.inputIds]: { type: "int64", dims: [batch, length], data: ids },
      [TENSORS.positionIds]: { type: "int64", dims: [batch, length], data: positions },
      [TENSORS.queryBlock]: { type: "float32", dims: [batch, length * groups], data: queryBlock },
      [TENSORS.keyBlock]: { type: "float32", dims: [batch, past + length], data: keyBlock },
      [TENSORS.rows]: indices(asked),
      [TENSORS.guideRows]: indices(guides),
      [TENSORS.guideScale]: {
        type: "float32",
        dims: [Math.max(1, scales.length), 1],
        data: Float32Array.from(scales.length > 0 ? scales : [0]),
      },
      [TENSORS.watch]: indices(watch),
    }, { wantsCandidates: asked.length > 0, wantsWatched: watch.length > 0 });
    return this.#split(inputs, outputs, watch);
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
