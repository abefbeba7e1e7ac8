/** The recipes in deploy/ cannot run here; what can be compared with the code is. */
import { assert, assertEquals } from "@std/assert";
import config from "../../deno.json" with { type: "json" };
import { parseCli } from "../../routes/cli.ts";

const read = (name: string) => Deno.readTextFile(new URL(`../../deploy/${name}`, import.meta.url));
const [, , ...start] = config.tasks.start.split(" "); // behind "deno run"

Deno.test("the Dockerfile and the systemd unit run what deno task start runs", async () => {
  const command = (await read("Dockerfile")).match(/^CMD (\[.*\])$/m)?.[1] ?? "[]";
  assertEquals(JSON.parse(command), ["run", "--cached-only", ...start]);
  const unit = (await read("cinnabar.service")).match(/^ExecStart=\S+\/deno run (.*)$/m)?.[1];
  assertEquals(unit?.split(" "), start);
});

Deno.test("the recipes set variables that the command line reads, to values that it takes", async () => {
  const seen = new Map<string, string>();
  for (const name of ["Dockerfile", "compose.yaml", "cinnabar.service", "kubernetes.yaml"]) {
    const text = await read(name);
    const settings = /\b([A-Z_]{4,})(?:=|: |, value: )"?([\w.]+)/g;
    for (const [, variable, value] of text.matchAll(settings)) seen.set(variable, value);
  }
  seen.delete("DENO_DIR");
  seen.delete("MODEL"); // a comment
  assertEquals([...seen.keys()].sort(), ["BACKEND", "HOST", "PORT"]);
  assert(parseCli([], Object.fromEntries(seen), "tiny") !== "help");
});

Deno.test("the image holds what main.ts is made of, and runs this Deno", async () => {
  const dockerfile = await read("Dockerfile");
  for (const source of ["deno.json", "deno.lock", "main.ts", "src", "routes"]) {
    assert(new RegExp(`^COPY .*\\b${source.replace(".", "\\.")}\\b`, "m").test(dockerfile), source);
  }
  assert(dockerfile.includes(`deno:${Deno.version.deno}\n`));
});
