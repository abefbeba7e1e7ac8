import { assertEquals } from "@std/assert";

const readJson = async (path: string) =>
  JSON.parse(await Deno.readTextFile(new URL(`../../${path}`, import.meta.url)));

/** Deno downloads whatever its lock file names, used or not; what only tests and tools need is in tests/deno.lock. */
Deno.test("deno.lock, and so `deno task start`, has no package but those of deno.json", async () => {
  const imports: string[] = Object.values((await readJson("deno.json")).imports);
  const packages = imports.filter((target) => target.startsWith("npm:"))
    .map((target) => target.replace(/^npm:\/?((?:@[^/]+\/)?[^/]+).*$/, "npm:$1"));
  const locked = Object.keys((await readJson("deno.lock")).specifiers);
  assertEquals(locked.sort(), [...new Set(packages)].sort());
});
