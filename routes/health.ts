/** /healthz: the process answers. /readyz: it takes requests. */
import type { Handler } from "hono";
import type { Engine } from "../src/mod.ts";
import type { ResolvedAppOptions } from "./options.ts";

/** Always cheap: it touches no engine. */
export const healthRoute: Handler = (c) => c.json({ status: "ok" });

export function readyRoute(engine: Engine, { stopping }: ResolvedAppOptions): Handler {
  return (c) => {
    const status = engine.closed
      ? "closed"
      : engine.failed
      ? "failed"
      : stopping.aborted
      ? "stopping"
      : "ready";
    const { name } = engine.manifest;
    const { backend } = engine.session;
    return c.json({ status, model: name, backend, ...engine.load }, status === "ready" ? 200 : 503);
  };
}
