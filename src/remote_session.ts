/** A ModelSession that lives in a Worker: only ids and candidates cross, keys and values stay there. */
import { EngineError, type EngineErrorCode } from "./errors.ts";
import type { ForwardInput } from "./forward.ts";
import type { ModelSession, SessionPlan } from "./session.ts";
import type { BackendName } from "./backend/backend.ts";
import type { Candidates } from "./sampler.ts";

/** What crosses to the Worker. */
export type WorkerRequest =
  | { readonly call: number; readonly method: "open"; readonly plan: SessionPlan }
  | { readonly call: number; readonly method: "forward"; readonly inputs: readonly ForwardInput[] }
  | { readonly call: number; readonly method: "release"; readonly slot: number }
  | { readonly call: number; readonly method: "close" };

/** An error that crosses back. */
export interface WorkerError {
  readonly code: EngineErrorCode;
  readonly message: string;
  readonly param: string | undefined;
}

/** What crosses back: one answer for each request. */
export type WorkerResponse =
  | { readonly call: number; readonly error: WorkerError }
  | { readonly call: number; readonly opened: SessionFacts }
  | { readonly call: number; readonly candidates: Candidates[] }
  | { readonly call: number; readonly done: true };

/** The facts of an open session. */
export interface SessionFacts {
  readonly description: string;
  readonly backend: BackendName;
  readonly batch: number;
}

type Unnumbered<T> = T extends unknown ? Omit<T, "call"> : never;

/**
 * Opens a session in a new Worker.
 *
 * @param options.handOver give the weights away: they move to the Worker, and the plan's array is empty afterwards
 * @throws {EngineError} as openSession
 */
export async function openRemoteSession(
  plan: SessionPlan,
  options: { readonly handOver: boolean },
): Promise<ModelSession> {
  const worker = new Worker(new URL("./session_worker.ts", import.meta.url), { type: "module" });
  const pending = new Map<number, {
    resolve(response: WorkerResponse): void;
    reject(error: unknown): void;
  }>();
  let calls = 0;
  let dead: EngineError | undefined;
  const fail = (error: EngineError) => {
    dead ??= error;
    for (const { reject } of pending.values()) reject(error);
    pending.clear();
  };
  worker.onmessage = ({ data }: MessageEvent<WorkerResponse>) => {
    const caller = pending.get(data.call);
    pending.delete(data.call);
    if (!("error" in data)) return caller?.resolve(data);
    const { code, message, param } = data.error;
    caller?.reject(new EngineError(code, message, { param }));
  };
  worker.onerror = (event) => {
    event.preventDefault();
    fail(new EngineError("backend_failed", `the model's Worker died: ${event.message}`));
  };
  const ask = (
    request: Unnumbered<WorkerRequest>,
    transfer: Transferable[] = [],
  ): Promise<WorkerResponse> => {
    if (dead !== undefined) return Promise.reject(dead);
    const call = calls++;
    return new Promise((resolve, reject) => {
      pending.set(call, { resolve, reject });
      worker.postMessage({ ...request, call }, transfer);
    });
  };
  const unexpected = () => new EngineError("backend_failed", "the Worker's answer does not fit");

  let facts: SessionFacts;
  try {
    const { buffer } = plan.weights;
    const owned = options.handOver && buffer instanceof ArrayBuffer;
    const response = await ask({ method: "open", plan }, owned ? [buffer] : []);
    if (!("opened" in response)) throw unexpected();
    facts = response.opened;
  } catch (error) {
    worker.terminate();
    throw error;
  }
  return {
    ...facts,
    get failed() {
      return dead !== undefined;
    },
    async forward(inputs) {
      const response = await ask({ method: "forward", inputs });
      if (!("candidates" in response)) throw unexpected();
      return response.candidates;
    },
    release: async (slot) => void await ask({ method: "release", slot }),
    async close() {
      try {
        if (dead === undefined) await ask({ method: "close" });
      } finally {
        worker.terminate();
        dead ??= new EngineError("engine_closed", "the session is closed");
      }
    },
  };
}
