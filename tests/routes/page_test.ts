import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { toFileUrl } from "@std/path";
import { Hono } from "hono";
import { createApp } from "../../routes/mod.ts";
import { openEngine } from "../support/serve.ts";

/** A folder with a page, and an app that serves it. */
async function openPage() {
  const test = openEngine();
  const folder = await Deno.makeTempDir();
  const files = {
    "index.html": "<!doctype html>",
    "page.css": "a{}",
    "page.js": "1",
    ".hidden.js": "1",
  };
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(`${folder}/${name}`, text);
  }
  await Deno.mkdir(`${folder}/folder.js`);
  await Deno.writeTextFile(`${folder}/folder.js/icon.svg`, "<svg/>");
  await Deno.writeTextFile(`${folder}/secret.ts`, "1");
  return {
    app: createApp(test.engine, { page: toFileUrl(`${folder}/`) }),
    async [Symbol.asyncDispose]() {
      await test.engine.close();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

Deno.test("GET / serves the page under a strict policy", async () => {
  await using page = await openPage();
  const response = await page.app.request("/");
  assertEquals(response.status, 200);
  assertEquals(response.headers.get("content-type"), "text/html; charset=utf-8");
  assertEquals(response.headers.get("x-content-type-options"), "nosniff");
  assertEquals(response.headers.get("cache-control"), "no-cache");
  const policy = response.headers.get("content-security-policy") ?? "";
  assertStringIncludes(policy, "default-src 'self'");
  assertStringIncludes(policy, "connect-src 'self' ws: wss:");
  assert(!policy.includes("unsafe"));
  assertEquals(await response.text(), "<!doctype html>");
});

Deno.test("the page's files carry their types and can be revalidated", async () => {
  await using page = await openPage();
  const { app } = page;
  for (
    const [name, type] of [["page.css", /^text\/css/], ["page.js", /^text\/javascript/], [
      "folder.js/icon.svg",
      /^image\/svg/,
    ]] as const
  ) {
    const response = await app.request(`/${name}`);
    assertMatch(response.headers.get("content-type") ?? "", type);
    await response.body?.cancel();
    const etag = response.headers.get("etag") ?? "";
    for (const tag of [etag, `W/${etag}`, `"other", ${etag}`]) {
      const again = await app.request(`/${name}`, { headers: { "if-none-match": tag } });
      assertEquals([again.status, again.body], [304, null]);
    }
    const changed = await app.request(`/${name}`, { headers: { "if-none-match": '"other"' } });
    assertEquals(changed.status, 200);
    await changed.body?.cancel();
    const head = await app.request(`/${name}`, { method: "HEAD" });
    assertEquals([head.status, head.headers.get("etag"), head.body], [200, etag, null]);
  }
});

Deno.test("nothing outside the page's folder is served", async () => {
  await using page = await openPage();
  const { app } = page;
  for (
    const path of [
      "/../mod.ts",
      "/%2e%2e/mod.ts",
      "/..%2fmod.ts",
      "/../page.ts",
      "/mod.ts",
      "/secret.ts",
      "/folder.js",
      "/folder.js/",
      "/.hidden.js",
      "//etc/passwd.txt",
      "/page.js/",
      "/index.html/x.js",
      "/nothing.js",
      `/${"x".repeat(300)}.js`,
      "/page",
    ]
  ) {
    const response = await app.fetch(new Request(`http://x${path}`));
    assertEquals([path, response.status], [path, 404]);
    await response.body?.cancel();
  }
});

Deno.test("below a prefix the page is found with a slash, and redirected to it without", async () => {
  await using opened = await openPage();
  const inner = new Hono().route("/lm", opened.app);
  for (const [app, base] of [[inner, "/lm"], [new Hono().route("/a", inner), "/a/lm"]] as const) {
    const redirect = await app.request(`${base}?x=1`);
    assertEquals(redirect.status, 302);
    const location = redirect.headers.get("location") ?? "";
    assertEquals(new URL(location, `http://localhost${base}`).href, `http://localhost${base}/?x=1`);
    const page = await app.request(`${base}/`);
    assertEquals([page.status, page.headers.get("content-type")], [
      200,
      "text/html; charset=utf-8",
    ]);
    await page.body?.cancel();
    const script = await app.request(`${base}/page.js`);
    assertEquals(script.status, 200);
    await script.body?.cancel();
  }
});
