/** Serves an engine on a port, and stops gracefully. */
import type { Engine } from "../src/mod.ts";
import { type AppOptions, createApp } from "./mod.ts";

/** Where to listen, and how long to wait at the end. */
export interface ServeOptions extends Omit<AppOptions, "stopping" | "sockets"> {
  readonly host: string;
  readonly port: number;
  /** Milliseconds that running generations get to finish; 10 000 unless set. */
  readonly graceMs?: number;
}

/** A server that runs. */
export interface Server {
  /** Where a client on this machine finds it; ends in a slash. */
  readonly url: string;
  /**
   * Refuses new generations, lets running ones finish for the time of grace, then ends what is left, closes the engine and
   * listens no more. It waits for no client that does not read. Until then it still answers, so that a load balancer can read in /readyz that it stops.
   */
  stop(): Promise<void>;
}

/** How often a stopping server looks whether it is idle. */
const POLL_MS = 20;
/** How long the last frames may take to go out: a client that does not read must not keep us. */
const FLUSH_MS = 1000;

/**
 * Starts to serve. From now on the engine is the server's: `stop` closes it.
 *
 * @throws {Error} where it cannot listen, saying why
 */
export function serve(engine: Engine, options: ServeOptions): Server {
  const { host, port, graceMs = 10_000, ...appOptions } = options;
  const stopping = new AbortController();
  const sockets = new Set<WebSocket>();
  const app = createApp(engine, { ...appOptions, sockets, stopping: stopping.signal });
  const server = listen(
    options,
    () => Deno.serve({ hostname: host, port, onListen() {} }, app.fetch),
  );
  const stop = async () => {
    stopping.abort();
    await until(() => engine.load.running + engine.load.waiting === 0, graceMs);
    await engine.close();
    await until(() => sockets.size === 0, FLUSH_MS); // they close once their last frame is sent
    let done = false;
    server.shutdown().finally(() => done = true); // only now: it drops the sockets that are left
    await until(() => done, FLUSH_MS);
  };
  let stopped: Promise<void> | undefined;
  return { url: urlOf(host, server.addr.port), stop: () => stopped ??= stop() };
}

async function until(condition: () => boolean, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition() && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/**
 * Finds out whether `serve` could listen there, before a large model is loaded in vain.
 *
 * @throws {Error} where it cannot listen, saying why
 */
export function probe({ host, port }: { readonly host: string; readonly port: number }): void {
  if (port !== 0) listen({ host, port }, () => Deno.listen({ hostname: host, port }).close());
}

function listen<T>(
  { host, port }: { readonly host: string; readonly port: number },
  open: () => T,
): T {
  try {
    return open();
  } catch (cause) {
    const fact = cause instanceof Deno.errors.AddrInUse
      ? "the port is taken; choose another with --port or PORT"
      : messageOf(cause);
    throw new Error(`cannot listen on ${host}:${port}: ${fact}`, { cause });
  }
}

const messageOf = (error: unknown) => error instanceof Error ? error.message : String(error);

function urlOf(host: string, port: number): string {
  const everywhere = host === "0.0.0.0" || host === "::";
  const name = everywhere ? "localhost" : host.includes(":") ? `[${host}]` : host;
  return `http://${name}:${port}/`;
}
