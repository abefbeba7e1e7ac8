/**
 * ModelSession: token ids in, candidates out, over one Runner. The only file that knows the graph's tensor names.
 *
 * Every phase is the same call. A sequence hands over the ids that follow its cached positions, says how many of them to
 * keep in the cache and for which of them it wants candidates: prefill keeps all and asks none, denoise keeps none and asks
 * the masked ones, commit keeps a finished block — and may carry the next block behind it, to save a pass.
 */
import {
  type Backend,
  type BackendName,
  type BackendOptions,
  openBackend,
  type Runner,
} from "./backend/backend.ts";
import { serialQueue } from "./backend/queue.ts";
import { EngineError, messageOf } from "./errors.ts";
import { buildTransformer, TENSORS } from "./graph/transformer.ts";
import { WeightLayout } from "./graph/weights.ts";
import type { Manifest } from "./manifest.ts";
import { CANDIDATES } from "./options.ts";
import { parseSafetensors } from "./safetensors.ts";
import type { Candidates } from "./sampler.ts";

/** What one sequence brings to a forward pass. */
export interface ForwardInput {
  /** Cache slot of the sequence. */
  readonly slot: number;
  /** Position of `ids[0]`; positions before it are in the cache. */
  readonly start: number;
  readonly ids: readonly number[];
  /** Positions attend to every position of their own block and of earlier ones; blocks start at multiples of this. */
  readonly blockLength: number;
  /** How many leading ids to append to the cache: whole blocks of settled tokens. */
  readonly keep: number;
  /** Indices into `ids` whose candidates are wanted. */
  readonly rows: readonly number[];
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
  /** Forgets the cached positions of a slot. */
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
  /** Most likely tokens to return for a position; {@link CANDIDATES} unless set. */
  readonly candidates?: number;
}

/** A key block beyond every query: padding that nothing sees. */
const PADDING_BLOCK = 1e9;

/**
 * Opens a session in this thread.
 *
 * @throws {EngineError} `backend_unavailable` | `backend_failed` | `bundle_invalid`
 */
export async function openSession(plan: SessionPlan): Promise<ModelSession> {
  const backend = await openBackend(plan.backends, plan.options);
  const { architecture } = plan.manifest;
  const candidates = Math.min(plan.candidates ?? CANDIDATES, architecture.vocabSize);
  const layout = new WeightLayout(
    parseSafetensors(plan.weights, plan.manifest.files.weights.path),
    plan.weights,
    { form: backend.matrixForm, accuracyLevel: backend.accuracyLevel },
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
    return this.#enqueue(() => Promise.resolve(this.runner.release(slot)));
  }

  close(): Promise<void> {
    return this.#enqueue(() => this.runner.close());
  }

  /** WebGPU reads out-of-range ids without an error, so ranges are checked here. */
  #check({ ids, start, keep, rows, blockLength }: ForwardInput): void {
    const end = start + ids.length;
    if (ids.length === 0 || start % blockLength !== 0 || end > this.#context) {
      throw new RangeError(`positions ${start}-${end} with block length ${blockLength}`);
    }
    if (keep % blockLength !== 0 || keep > ids.length) {
      throw new RangeError(`cannot keep ${keep} of ${ids.length} ids: whole blocks only`);
    }
    for (const id of ids) {
      if (!(id >= 0 && id < this.#vocabulary)) throw new RangeError(`token id ${id}`);
    }
    for (const row of rows) {
      if (!(row >= 0 && row < ids.length)) throw new RangeError(`row ${row} of ${ids.length}`);
    }
  }

  async #forward(inputs: readonly ForwardInput[]): Promise<Candidates[]> {
    const length = Math.max(...inputs.map((input) => input.ids.length));
    const past = Math.max(this.#minPast, ...inputs.map((input) => input.start));
    const batch = inputs.length;
    const ids = new BigInt64Array(batch * length);
    const positions = new BigInt64Array(batch * length);
    const queryBlock = new Float32Array(batch * length * this.#groups).fill(-1);
    const keyBlock = new Float32Array(batch * (past + length)).fill(PADDING_BLOCK);
    const rows: number[] = [];
    inputs.forEach((input, b) => {
      const { start, blockLength } = input;
      for (let p = 0; p < start; p++) {
        keyBlock[b * (past + length) + p] = Math.floor(p / blockLength);
      }
      input.ids.forEach((id, i) => {
        const block = Math.floor((start + i) / blockLength);
        ids[b * length + i] = BigInt(id);
        positions[b * length + i] = BigInt(start + i);
        keyBlock[b * (past + length) + past + i] = block;
        const at = (b * length + i) * this.#groups;
        queryBlock.fill(block, at, at + this.#groups);
      });
      for (const row of input.rows) rows.push(b * length + row);
    });
    const wanted = rows.length > 0 ? rows : [0]; // the graph needs at least one row
    const outputs = await this.#run(inputs, past, {
      [TENSORS.inputIds]: { type: "int64", dims: [batch, length], data: ids },
      [TENSORS.positionIds]: { type: "int64", dims: [batch, length], data: positions },
      [TENSORS.queryBlock]: {
        type: "float32",
        dims: [batch, length * this.#groups],
        data: queryBlock,
      },
      [TENSORS.keyBlock]: { type: "float32", dims: [batch, past + length], data: keyBlock },
      [TENSORS.rows]: { type: "int32", dims: [wanted.length], data: Int32Array.from(wanted) },
    }, rows.length > 0);
    return this.#split(inputs, outputs);
  }

  async #run(
    inputs: readonly ForwardInput[],
    past: number,
    feeds: Parameters<Runner["run"]>[0]["inputs"],
    wantsCandidates: boolean,
  ) {
    const { candidateLogits, candidateIds, logSumExp, entropy } = TENSORS;
    try {
      return await this.runner.run({
        inputs: feeds,
        past: { slots: inputs.map((input) => input.slot), length: past },
        // one small output is always fetched: a run with none is an error
        outputs: wantsCandidates
          ? [candidateLogits, candidateIds, logSumExp, entropy]
          : [logSumExp],
        append: inputs.flatMap(({ slot, start, keep }, row) =>
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
  ): Candidates[] {
    const logits = outputs[TENSORS.candidateLogits]?.data;
    const ids = outputs[TENSORS.candidateIds]?.data;
    const lse = outputs[TENSORS.logSumExp].data;
    const entropy = outputs[TENSORS.entropy]?.data;
    const width = this.width;
    let at = 0;
    return inputs.map(({ rows }) => {
      const from = at;
      at += rows.length;
      if (
        rows.length === 0 || !(logits instanceof Float32Array) ||
        !(ids instanceof BigInt64Array) || !(lse instanceof Float32Array) ||
        !(entropy instanceof Float32Array)
      ) return emptyCandidates(width);
      for (let n = from; n < at; n++) {
        if (!Number.isFinite(lse[n]) || !Number.isFinite(logits[n * width])) {
          throw new EngineError("backend_failed", "the model's output is not finite");
        }
      }
      return {
        width,
        logits: logits.slice(from * width, at * width),
        ids: Int32Array.from(ids.subarray(from * width, at * width), Number),
        logSumExp: lse.slice(from, at),
        entropy: entropy.slice(from, at),
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
  };
}
