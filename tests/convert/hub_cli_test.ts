import { assert, assertEquals } from "@std/assert";
import { loadBundle } from "../../src/loader.ts";
import { sendStart, withHub } from "../support/fake_hub.ts";
import { available } from "../support/require.ts";

const CLI = new URL("../../src/convert/cli.ts", import.meta.url).pathname;
/** As `deno task convert`, but what the hub's package needs does not get into deno.lock. */
const RUN = ["run", "--no-lock", "--allow-read", "--allow-write", "--allow-env", "--allow-net"];
const TOKEN = "hf_secretword";

/** Starts the command. */
function start(env: Record<string, string>, ...args: string[]) {
  return new Deno.Command(Deno.execPath(), {
    args: [...RUN, CLI, ...args],
    env: { HF_ENDPOINT: "", HF_TOKEN: "", CINNABAR_CACHE: "", XDG_CACHE_HOME: "", ...env },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function run(env: Record<string, string>, ...args: string[]) {
  const { code, stdout, stderr } = await start(env, ...args).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

Deno.test("the convert command downloads owner/name, and says when it takes a cached commit", () =>
  withHub({ needs: { token: TOKEN, what: "all" } }, async ({ hub, folder }) => {
    const env = { HF_ENDPOINT: `${hub.url}/`, HF_TOKEN: TOKEN, XDG_CACHE_HOME: `${folder}/xdg` };
    const first = await run(env, "acme/tiny", `${folder}/first`);
    assertEquals(first.code, 0, first.stderr);
    assertEquals(first.stdout.match(/100 %/g)?.length, 2, first.stdout); // the download, the conversion
    assert(!first.stdout.includes(TOKEN) && !first.stdout.includes("\r"), first.stdout);
    assertEquals((await loadBundle(`${folder}/first`)).manifest.name, "first");
    const host = encodeURIComponent(hub.host);
    await Deno.stat(`${folder}/xdg/cinnabar/hub/${host}/acme/tiny/${hub.commit}/config.json`);

    await hub.close();
    const second = await run(env, "acme/tiny", `${folder}/second`);
    assertEquals(second.code, 0, second.stderr);
    assert(second.stdout.includes(`cannot reach ${hub.host} for acme/tiny`), second.stdout);
    assert(second.stdout.includes(`taking commit ${hub.commit} from the cache`), second.stdout);
    await loadBundle(`${folder}/second`);

    const other = await run(
      { ...env, CINNABAR_CACHE: `${folder}/own` },
      "acme/tiny",
      `${folder}/t`,
    );
    assertEquals(other.code, 1);
    assert(/cannot reach .*; a folder .* can be given instead/.test(other.stderr), other.stderr);
    assert(!other.stderr.includes("    at "), other.stderr);
  }));

Deno.test("the convert command says what to do about a gated model, and refuses early", () =>
  withHub({ needs: { token: TOKEN, what: "files" } }, async ({ hub, folder }) => {
    const env = { HF_ENDPOINT: hub.url };
    const cache = `--cache=${folder}/cache`;
    const gated = await run(env, "acme/tiny", `${folder}/t`, cache);
    assertEquals(gated.code, 1);
    assert(gated.stderr.includes("gated") && gated.stderr.includes("HF_TOKEN"), gated.stderr);

    await Deno.mkdir(`${folder}/full`);
    await Deno.writeTextFile(`${folder}/full/file`, "");
    hub.requests.length = 0;
    const full = await run({ ...env, HF_TOKEN: TOKEN }, "acme/tiny", `${folder}/full`, cache);
    assertEquals(full.code, 1);
    assert(full.stderr.includes("is not empty"), full.stderr);
    assert(hub.requests.every(({ name }) => !name.endsWith(".safetensors")));
  }));

Deno.test({
  name: "Ctrl-C ends a download with a line, and the next run goes on",
  ...available("SIGINT", Deno.build.os !== "windows", "Windows cannot send it to a process"),
  fn: () => {
    const over = Promise.withResolvers<void>();
    const reached = Promise.withResolvers<void>();
    return withHub({
      answer: ({ kind, name, nth, bytes }) => {
        if (kind !== "file" || name !== "model.safetensors" || nth > 1) return undefined;
        reached.resolve();
        return sendStart(bytes, 5000, over.promise);
      },
    }, async ({ hub, folder, cached }) => {
      const args = ["acme/tiny", `${folder}/t`, `--cache=${folder}/cache`];
      const process = start({ HF_ENDPOINT: hub.url }, ...args);
      await reached.promise;
      process.kill("SIGINT");
      const { code, stderr } = await process.output();
      over.resolve();
      const told = new TextDecoder().decode(stderr);
      assertEquals(code, 1, told);
      assert(told.includes("was cancelled") && told.includes(cached().replace(/\/\w+$/, "")), told);
      assert(!told.includes("    at "), told);

      const bytesThere = (await Deno.stat(`${cached()}/model.safetensors.partial`)).size;
      hub.requests.length = 0;
      const again = await run({ HF_ENDPOINT: hub.url }, ...args);
      assertEquals(again.code, 0, again.stderr);
      const range = bytesThere === 0 ? null : `bytes=${bytesThere}-`; // the signal may win
      assertEquals(
        hub.requests.filter(({ kind }) => kind === "file").map((one) => [one.name, one.range]),
        [["model.safetensors", range]],
      );
    });
  },
});
