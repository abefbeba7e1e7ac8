import { assert, assertEquals } from "@std/assert";
import { createApp } from "../../routes/mod.ts";
import { loadEngine } from "../../src/mod.ts";
import { TINY } from "../support/tiny.ts";

const ROOT = new URL("../../", import.meta.url);
const readme = await Deno.readTextFile(new URL("README.md", ROOT));
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp("```" + language + "\n(.*?)```", "gs"))].map((match) => match[1]);

async function run(command: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args, cwd: ROOT }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert(success, decode(stderr));
  return decode(stdout);
}

Deno.test({
  name: "the README's examples run as written, but for the port",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async (t) => {
    await using engine = await loadEngine(TINY, { backend: "wasm" });
    await using server = Deno.serve({ port: 0, onListen() {} }, createApp(engine).fetch);
    const here = (code: string) =>
      code.replaceAll("localhost:8000", `127.0.0.1:${server.addr.port}`);

    for (const [i, code] of blocks("sh").filter((code) => code.startsWith("curl")).entries()) {
      await t.step(`curl ${i + 1}`, async () => {
        const answer = JSON.parse(await run("bash", ["-c", here(code)]));
        assertEquals(["stop", "length"].includes(answer.finish_reason), true);
        assert(answer.text.length > 0 && answer.usage.forward_passes > 0);
      });
    }
    for (const [i, code] of blocks("ts").entries()) {
      await t.step(`script ${i + 1}`, async () => {
        const path = new URL(`.readme_example_${i}.ts`, ROOT);
        await Deno.writeTextFile(path, here(code));
        try {
          const output = await run(Deno.execPath(), ["run", "-A", "--no-check", path.pathname]);
          assert(output.trim().length > 0);
        } finally {
          await Deno.remove(path);
        }
      });
    }
    assertEquals(blocks("ts").length, 2);
  },
});

Deno.test("every file that the README links to is there", async () => {
  for (const [, path] of readme.matchAll(/\]\((?!http)([^)#]+)\)/g)) {
    await Deno.stat(new URL(path, ROOT));
  }
});
