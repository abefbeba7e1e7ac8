/** Requests to a hub: who gets the token, what is tried again, and what a refusal means. */
import { setTimeout as sleep } from "node:timers/promises";
import { EngineError, messageOf } from "../errors.ts";

/** What every request of one download shares. */
export interface HubRequestOptions {
  /** URL of the hub, no slash at the end. */
  readonly endpoint: string;
  /** `owner/name`, for messages. */
  readonly repo: string;
  readonly token?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Hears, in a line, what a user would wonder about. */
  readonly onNote: (note: string) => void;
  /** Milliseconds before the first repetition; each further one waits twice as long. */
  readonly backoffMs: number;
  /** Milliseconds without a byte after which a connection counts as broken. */
  readonly stallMs: number;
}

/** An answer whose body is read piece by piece. */
export interface HubAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly chunks: AsyncIterable<Uint8Array<ArrayBuffer>>;
}

/** The requests of one download. */
export interface HubRequests {
  /** A `fetch` for small answers: they are read whole, and tried again until they are. */
  readonly fetch: typeof fetch;
  /** One attempt to get `url`; throws an EngineError only where another attempt would not help. */
  get(url: string, headers?: Readonly<Record<string, string>>): Promise<HubAnswer>;
  /**
   * Repeats `attempt` until it succeeds, at most `tries` times without `reached()` growing.
   *
   * @throws {EngineError} what `attempt` throws of that kind; else `checkpoint_unavailable`, see isUnreachable()
   */
  retry<T>(tries: number, reached: () => number, attempt: () => Promise<T>): Promise<T>;
}

const API_TRIES = 3;
/** A server that asks for a longer pause is not waited for. */
const LONGEST_WAIT_MS = 300_000;

/** A failure that another attempt may not meet; `waitMs` is what the server asked for. */
class Broken extends Error {
  readonly waitMs: number | undefined;

  constructor(message: string, waitMs?: number) {
    super(message);
    this.waitMs = waitMs;
  }
}

/** Opens nothing yet: the closures that send requests. */
export function hubRequests(options: HubRequestOptions): HubRequests {
  const { endpoint, repo, token, signal, onNote, backoffMs, stallMs } = options;
  const { origin, host } = new URL(endpoint);

  /** Runs one connection, which ends when nothing came for `stallMs`. */
  const connect = () => {
    const stalled = new AbortController();
    const both = signal === undefined ? stalled.signal : AbortSignal.any([signal, stalled.signal]);
    const wait = async <T>(answer: Promise<T>): Promise<T> => {
      const seconds = stallMs / 1000;
      const timer = setTimeout(
        () => stalled.abort(new Error(`nothing came for ${seconds} seconds`)),
        stallMs,
      );
      try {
        return await answer;
      } finally {
        clearTimeout(timer);
      }
    };
    return { signal: both, wait };
  };

  const get: HubRequests["get"] = async (url, headers = {}) => {
    const connection = connect();
    // Only a request that begins at the hub carries the token; fetch drops it where a redirect leads elsewhere.
    const isOwn = token !== undefined && new URL(url).origin === origin;
    const request = fetch(url, {
      headers: isOwn ? { ...headers, authorization: `Bearer ${token}` } : headers,
      signal: connection.signal,
    });
    const response = await connection.wait(request);
    if (!response.ok) {
      await response.body?.cancel();
      // 416, no such range, is for the caller: an answer without a byte
      if (response.status !== 416) throw refusal(response);
    }
    return {
      status: response.status,
      headers: response.headers,
      chunks: read(response, connection.wait),
    };
  };

  const refusal = ({ status, headers, url }: Response): Error => {
    // Another host that the hub led to knows signed addresses, no accounts: a new address may do.
    const isHub = new URL(url).origin === origin;
    if (!isHub || status === 408 || status === 429 || status >= 500) {
      return new Broken(`the server answered ${status}`, askedWait(status, headers));
    }
    if (status === 401 || status === 403) {
      const account = "an account that may read it (and has accepted its terms, if it has any)";
      const why = token === undefined
        ? `set HF_TOKEN to an access token of ${account}`
        : `HF_TOKEN was sent; it must be a valid access token of ${account}`;
      return unavailable(
        `${host} does not hand out ${repo} (${status}): it is gated or private, or does not exist. ` +
          `For a gated or private model ${why}; see ${endpoint}/${repo}`,
      );
    }
    if (status === 404) {
      const code = headers.get("x-error-code");
      return unavailable(
        code === "RevisionNotFound" || code === "EntryNotFound"
          ? `${host} has ${repo}, but not the revision or file that was asked for (${code})`
          : `${host} has no model ${repo} (404), and there is no folder of that name here`,
      );
    }
    return unavailable(`${host} answered ${status} for ${repo}`);
  };

  const retry: HubRequests["retry"] = async (tries, reached, attempt) => {
    let failures = 0;
    let furthest = reached();
    while (true) {
      try {
        signal?.throwIfAborted();
        return await attempt();
      } catch (error) {
        if (error instanceof EngineError || signal?.aborted) throw error;
        failures = reached() > furthest ? 1 : failures + 1;
        furthest = Math.max(furthest, reached());
        const asked = error instanceof Broken ? error.waitMs : undefined;
        if (failures >= tries || (asked ?? 0) > LONGEST_WAIT_MS) {
          throw unreachable(host, repo, error, asked);
        }
        const waitMs = asked ?? backoffMs * 2 ** (failures - 1);
        if (asked !== undefined && asked >= 1000) {
          onNote(`${host} asks to wait ${Math.ceil(asked / 1000)} s (${messageOf(error)})`);
        }
        await sleep(waitMs, undefined, { signal });
      }
    }
  };

  return {
    get,
    retry,
    fetch: (input, init) =>
      retry(API_TRIES, () => 0, async () => {
        const headers = Object.fromEntries(new Headers(init?.headers));
        const answer = await get(String(input), headers);
        const parts: Uint8Array<ArrayBuffer>[] = [];
        for await (const chunk of answer.chunks) parts.push(chunk);
        return new Response(new Blob(parts), { status: answer.status, headers: answer.headers });
      }),
  };
}

async function* read(response: Response, wait: <T>(answer: Promise<T>) => Promise<T>) {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  try {
    while (true) {
      const { done, value } = await wait(reader.read());
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {}); // a broken connection cannot be cancelled any more
  }
}

/** Milliseconds that the server wants to be left alone, where it says so. */
function askedWait(status: number, headers: Headers): number | undefined {
  const after = headers.get("retry-after");
  if (after !== null) {
    const ms = /^\d+$/.test(after) ? Number(after) * 1000 : Date.parse(after) - Date.now();
    if (!Number.isNaN(ms)) return Math.max(0, ms);
  }
  // draft-ietf-httpapi-ratelimit-headers: seconds until the quota is full again
  const reset = /;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "");
  return status !== 429 || reset === null ? undefined : Number(reset[1]) * 1000;
}

/** The error of a hub that gives no usable answer. */
export function unreachable(
  host: string,
  repo: string,
  error: unknown,
  waitMs?: number,
): EngineError {
  const reason = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  // addresses of files carry signatures, which have no place in a message
  const fact = messageOf(reason).replace(/ for url \([^)]*\)/, "");
  const asks = waitMs === undefined ? "" : `, and asks to wait ${Math.ceil(waitMs / 1000)} s`;
  return new EngineError(
    "checkpoint_unavailable",
    `cannot reach ${host} for ${repo}: ${fact}${asks}`,
    { param: "endpoint", cause: error },
  );
}

/** Whether the hub gave no usable answer, rather than one that says no. */
export function isUnreachable(error: unknown): error is EngineError {
  return error instanceof EngineError && error.code === "checkpoint_unavailable" &&
    error.param === "endpoint";
}

function unavailable(message: string): EngineError {
  return new EngineError("checkpoint_unavailable", message, { param: "source" });
}
