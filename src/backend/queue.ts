/**
 * Runs jobs one after another, in order. A failed job fails its caller only.
 *
 * @example
 * ```ts
 * import { serialQueue } from "./queue.ts";
 * const enqueue = serialQueue();
 * const failing = enqueue(() => Promise.reject(new Error("once"))).catch(() => "failed");
 * if (await enqueue(() => Promise.resolve(2)) !== 2 || await failing !== "failed") throw new Error();
 * ```
 */
export function serialQueue(): <T>(job: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (job) => {
    const result = last.then(job, job);
    last = result.catch(() => {}); // the caller holds `result`; the queue only waits
    return result;
  };
}
