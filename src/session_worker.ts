/** Entry of the Worker that holds a ModelSession; remote_session.ts is its other end. */
import { EngineError, messageOf } from "./errors.ts";
import type { WorkerError, WorkerRequest, WorkerResponse } from "./remote_session.ts";
import { type ModelSession, openSession } from "./session.ts";

/** The parts of a dedicated Worker's global scope that are used here. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<WorkerRequest>) => void) | null;
  postMessage(response: WorkerResponse): void;
}
const scope = globalThis as unknown as WorkerScope; // typed as a window by the shared library settings

let session: ModelSession | undefined;

async function answer(request: WorkerRequest): Promise<WorkerResponse> {
  const { call, method } = request;
  if (method === "open") {
    session = await openSession(request.plan);
    const { description, backend, batch } = session;
    return { call, opened: { description, backend, batch } };
  }
  if (session === undefined) throw new EngineError("backend_failed", `${method} before open`);
  switch (method) {
    case "forward":
      return { call, candidates: await session.forward(request.inputs) };
    case "release":
      await session.release(request.slot);
      return { call, done: true };
    case "close":
      await session.close();
      return { call, done: true };
  }
}

function toWire(error: unknown): WorkerError {
  if (error instanceof EngineError) {
    return { code: error.code, message: error.message, param: error.param };
  }
  return { code: "backend_failed", message: messageOf(error), param: undefined };
}

scope.onmessage = async ({ data }) => {
  try {
    scope.postMessage(await answer(data));
  } catch (error) {
    scope.postMessage({ call: data.call, error: toWire(error) });
  }
};
