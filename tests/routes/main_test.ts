/** main.ts as a process of its own, with the permissions that `deno task start` gives it. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import config from "../../deno.json" with { type: "json" };
import { available } from "../support/require.ts";
import { post } from "../support/serve.ts";

const ROOT = new URL("../../", import.meta.url);
const bundle = await Deno.stat(new URL("models/tiny/model.json", ROOT)).catch(() => undefined);
const needsModel = available("models/tiny", bundle !== undefined, "no models/tiny/model.json");
const [, ...START] = config.tasks.start.split(" ");

function spawn(args: string[], env: Record<string, string> = {}): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: [...START, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", ...env },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Runs to the end. */
async function run(args: string[], env: Record<string, string> = {}) {
  const { code, stdout, stderr } = await spawn(args, env).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, out: text(stdout), err: text(stderr) };
}

Deno.test("main.ts --help explains every flag and exits with 0", async () => {
  const { code, out, err } = await run(["--help"]);
  assertEquals([code, err], [0, ""]);
  for (
    const flag of ["--port", "--host", "--model", "--backend", "--threads", "--slots", "--cors"]
  ) {
    assertStringIncludes(out, flag);
  }
});

Deno.test("main.ts refuses what it cannot understand, with exit code 2", async () => {
  const flag = await run(["--prot", "80"]);
  assertEquals(flag.code, 2);
  assertMatch(flag.err, /^error: .*'--prot'.*--port.*\n--help/);
  const variable = await run([], { PORT: "http" });
  assertEquals(variable.code, 2);
  assertMatch(variable.err, /^error: PORT must be a whole number/);
});

Deno.test("main.ts says that the port is taken, with exit code 1", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { code, err } = await run(["--port", String(taken.addr.port)]);
  assertEquals(code, 1);
  assertMatch(err, /^error: cannot listen on 127\.0\.0\.1:\d+: the port is taken.*--port/);
});

Deno.test("main.ts says what is wrong with a model, with exit code 1", async () => {
  const { code, err } = await run(["--port", "0", "--model", "tests/routes"]);
  assertEquals(code, 1);
  assertMatch(err, /^error: .*model\.json/);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test({
    name: `main.ts prints where it listens, serves, and exits with 0 on ${signal}`,
    ...needsModel,
    async fn() {
      await using process = spawn(["--port", "0", "--backend", "wasm"]);
      const lines = process.stdout.pipeThrough(new TextDecoderStream());
      let printed = "";
      let url = "";
      for await (const piece of lines.values({ preventCancel: true })) {
        printed += piece;
        url = printed.match(/listens on (http:\S+)\ncurl .*\n/)?.[1] ?? "";
        if (url !== "") break;
      }
      assertMatch(url, /^http:\/\/127\.0\.0\.1:\d+\/$/);
      assertStringIncludes(
        printed,
        `curl ${url}v1/generate -H 'content-type: application/json' -d '{"`,
      );
      assertEquals(await (await fetch(`${url}healthz`)).json(), { status: "ok" });
      const response = await fetch(
        `${url}v1/generate`,
        post({ prompt: "function ", max_tokens: 8 }),
      );
      const answer = await response.json();
      assertEquals([response.status, answer.model], [200, "cinnabar-tiny"]);
      assert(answer.usage.completion_tokens <= 8);
      process.kill(signal);
      assertEquals((await process.status).code, 0);
      assertEquals(await new Response(process.stderr).text(), "");
      await lines.cancel();
    },
  });
}
