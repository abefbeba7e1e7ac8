/**
 * The network edge: a Hono app over an engine, to be served or mounted in an app of your own.
 *
 * @module
 */
import { Hono } from "hono";
import { cors } from "hono/cors";
import type { Engine } from "../src/mod.ts";
import { errorResponse, isFault, methodNotAllowed, notFound, wireError } from "./errors.ts";
import { generateRoute } from "./generate.ts";
import { healthRoute, readyRoute } from "./health.ts";
import { modelsRoute } from "./models.ts";
import { type AppOptions, resolveAppOptions } from "./options.ts";
import { pageRoute } from "./page.ts";
import { streamRoute } from "./stream.ts";

export type { WireError, WireErrorCode } from "./errors.ts";
export type { AppOptions } from "./options.ts";
export type { WireFrame, WireTimings, WireToken, WireUsage } from "./wire.ts";

/**
 * Makes the app: `POST /v1/generate`, `GET /v1/stream` (WebSocket), `/v1/models`, `/healthz`, `/readyz` and the page.
 *
 * The engine stays the caller's: the app never closes it.
 *
 * @example
 * ```ts ignore
 * import { Hono } from "hono";
 * import { loadEngine } from "@cinnabar/runtime";
 * import { createApp } from "@cinnabar/runtime/routes";
 *
 * const engine = await loadEngine("./models/tiny");
 * const app = new Hono().route("/lm", createApp(engine));
 * Deno.serve(app.fetch);
 * ```
 */
export function createApp(engine: Engine, options: AppOptions = {}): Hono {
  const resolved = resolveAppOptions(options);
  const app = new Hono();
  app.onError((error) => {
    if (isFault(error)) resolved.onFault(error);
    return errorResponse(wireError(error));
  });
  app.notFound((c) => notFound(c.req.path)); // where mounted, the outer app's own answer holds

  const routes = [
    { path: "/v1/generate", method: "POST", handler: generateRoute(engine, resolved) },
    { path: "/v1/models", method: "GET", handler: modelsRoute(engine) },
    { path: "/v1/stream", method: "GET", handler: streamRoute(engine, resolved) },
    { path: "/healthz", method: "GET", handler: healthRoute },
    { path: "/readyz", method: "GET", handler: readyRoute(engine, resolved) },
  ];
  if (resolved.cors.length > 0) {
    const allow = cors({ origin: resolved.cors.includes("*") ? "*" : [...resolved.cors] });
    for (const { path } of routes) {
      if (path !== "/v1/stream") app.use(path, allow); // a 101 response takes no headers
    }
  }
  for (const { path, method, handler } of routes) {
    app.on(method, path, handler);
    app.all(path, (c) => methodNotAllowed(c.req.method, method === "GET" ? "GET, HEAD" : method));
  }
  app.all("/v1/*", (c) => notFound(c.req.path));
  app.get("/*", pageRoute(resolved.page));
  return app;
}
