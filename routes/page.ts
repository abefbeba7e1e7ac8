/** GET /: the web page, straight from its folder, wherever the app is mounted. */
import type { MiddlewareHandler } from "hono";
import { basePath } from "hono/route";

/** What the page may consist of. */
const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  json: "application/json",
  webmanifest: "application/manifest+json",
  svg: "image/svg+xml",
  png: "image/png",
  ico: "image/x-icon",
  woff2: "font/woff2",
  txt: "text/plain; charset=utf-8",
};

const SECURITY = {
  "content-security-policy": [
    "default-src 'self'",
    "connect-src 'self' ws: wss:", // 'self' covers no WebSocket in some browsers
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; "),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

/**
 * Answers what lies in `folder` and leaves every other path to who comes next.
 *
 * @param folder ends in a slash
 */
export function pageRoute(folder: URL): MiddlewareHandler {
  return async (c, next) => {
    const base = basePath(c).replace(/\/$/, "");
    const path = c.req.path.slice(base.length);
    if (path === "") { // the page's relative URLs need the slash; relative itself, for proxies that cut prefixes
      return c.redirect(
        `${base.slice(base.lastIndexOf("/") + 1)}/${new URL(c.req.url).search}`,
        302,
      );
    }
    const name = path === "/" ? "index.html" : path.slice(1);
    const type = TYPES[name.slice(name.lastIndexOf(".") + 1)];
    const plain = /^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/.test(name) && name.length < 200; // no way out of the folder, no hidden files
    const content = plain && type !== undefined ? await read(new URL(name, folder)) : undefined;
    if (content === undefined) return await next();

    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const etag = `"${digest.subarray(0, 16).toHex()}"`;
    const headers = { ...SECURITY, "content-type": type, "cache-control": "no-cache", etag };
    const known = c.req.header("if-none-match")?.split(",").map((tag) =>
      tag.trim().replace("W/", "")
    );
    if (known?.includes(etag)) return new Response(null, { status: 304, headers });
    return new Response(content, { headers });
  };
}

/** The content of a file, also where the app was imported from a server. */
async function read(url: URL): Promise<Uint8Array<ArrayBuffer> | undefined> {
  if (url.protocol === "file:") {
    try {
      return await Deno.readFile(url);
    } catch (error) {
      const { NotFound, IsADirectory, NotADirectory } = Deno.errors;
      if ([NotFound, IsADirectory, NotADirectory].some((type) => error instanceof type)) return;
      throw error;
    }
  }
  const response = await fetch(url);
  if (response.ok) return await response.bytes();
  await response.body?.cancel();
}
