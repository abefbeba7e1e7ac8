import { assert, assertEquals, assertRejects } from "@std/assert";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { EngineError } from "../../src/errors.ts";
import { loadBundle } from "../../src/loader.ts";
import { parseManifest } from "../../src/manifest.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";

async function withBundle(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await writeCheckpoint(`${folder}/source`, { shards: 1 });
    await convertCheckpoint({ source: `${folder}/source`, target: `${folder}/b`, dtype: "q8" });
    await run(`${folder}/b`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("loadBundle() takes a path and a file URL, and tells how far it is", () =>
  withBundle(async (folder) => {
    const files: string[] = [];
    const bundle = await loadBundle(folder, {
      onProgress: ({ file, received, total }) => received === total && files.push(file),
    });
    assertEquals(files, [
      "model.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "weights.safetensors",
    ]);
    const again = await loadBundle(new URL(`file://${folder}`));
    assertEquals(again.manifest, bundle.manifest);
    assertEquals(again.weights, bundle.weights);
  }));

Deno.test("loadBundle() refuses a changed byte, a cut file and a missing one, and names them", () =>
  withBundle(async (folder) => {
    const path = `${folder}/weights.safetensors`;
    const whole = await Deno.readFile(path);
    const expectFailure = async (fact: RegExp) => {
      const error = await assertRejects(() => loadBundle(folder), EngineError);
      assertEquals(error.code, "bundle_invalid");
      assert(fact.test(error.message), error.message);
    };
    const changed = whole.slice();
    changed[changed.length - 5] ^= 1;
    await Deno.writeFile(path, changed);
    await expectFailure(/weights\.safetensors .*SHA-256 [0-9a-f]{64}, model\.json says/);
    await Deno.writeFile(path, whole.subarray(1));
    await expectFailure(/weights\.safetensors .*has \d+ bytes, model\.json says/);
    await Deno.remove(path);
    await expectFailure(/weights\.safetensors/);
    await Deno.writeTextFile(`${folder}/model.json`, "{ not json");
    await expectFailure(/model\.json is not JSON/);
  }));

Deno.test("loadBundle() downloads over HTTP, caches by hash, and reports a missing file", () =>
  withBundle(async (folder) => {
    const asked: string[] = [];
    await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
      const name = new URL(request.url).pathname.replace("/models/b/", "");
      asked.push(name);
      try {
        return new Response(await Deno.readFile(`${folder}/${name}`));
      } catch {
        return new Response("not here", { status: 404 });
      }
    });
    const base = `http://127.0.0.1:${server.addr.port}/models/b`;
    const cacheDir = `${folder}/cache`;
    const first = await loadBundle(base, { cacheDir });
    assertEquals(first.weights, await Deno.readFile(`${folder}/weights.safetensors`));
    assertEquals(asked.length, 4);
    await loadBundle(base, { cacheDir });
    assertEquals(asked.slice(4), ["model.json"]);
    await Deno.remove(`${folder}/tokenizer.json`);
    const error = await assertRejects(() => loadBundle(base), EngineError);
    assert(/tokenizer\.json.*404/.test(error.message), error.message);
  }));

Deno.test("loadBundle() downloads a damaged cache entry again", () =>
  withBundle(async (folder) => {
    await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
      return new Response(await Deno.readFile(folder + new URL(request.url).pathname));
    });
    const base = `http://127.0.0.1:${server.addr.port}`;
    const cacheDir = `${folder}/cache`;
    const { manifest, weights } = await loadBundle(base, { cacheDir });
    const cached = `${cacheDir}/${manifest.files.weights.sha256}`;
    await Deno.truncate(cached, 1000);
    assertEquals((await loadBundle(base, { cacheDir })).weights, weights);
    assertEquals(await Deno.readFile(cached), weights);
    assertEquals([...Deno.readDirSync(cacheDir)].length, 3, "no unfinished files");
  }));

Deno.test("loadBundle() stops a server that sends more or less than model.json says", () =>
  withBundle(async (folder) => {
    let change = (bytes: Uint8Array<ArrayBuffer>) => bytes;
    await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
      const { pathname } = new URL(request.url);
      const bytes = await Deno.readFile(folder + pathname);
      return new Response(pathname === "/weights.safetensors" ? change(bytes) : bytes);
    });
    const base = `http://127.0.0.1:${server.addr.port}`;
    change = (bytes) => new Uint8Array([...bytes, 0]);
    let error = await assertRejects(() => loadBundle(base), EngineError);
    assert(/weights\.safetensors: more than the \d+ bytes/.test(error.message), error.message);
    change = (bytes) => bytes.slice(1);
    error = await assertRejects(() => loadBundle(base), EngineError);
    assert(/weights\.safetensors .*has \d+ bytes/.test(error.message), error.message);
  }));

Deno.test("loadBundle() ends as cancelled when its signal is aborted", () =>
  withBundle(async (folder) => {
    const abort = new AbortController();
    await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
      const { pathname } = new URL(request.url);
      if (pathname === "/weights.safetensors") abort.abort();
      return new Response(await Deno.readFile(folder + pathname));
    });
    const base = `http://127.0.0.1:${server.addr.port}`;
    for (const source of [base, folder]) { // the folder's load finds the signal aborted from the start
      const error = await assertRejects(
        () => loadBundle(source, { signal: abort.signal }),
        EngineError,
      );
      assertEquals(error.code, "cancelled");
    }
  }));

Deno.test("parseManifest() names the field that is wrong", () =>
  withBundle(async (folder) => {
    const good = JSON.parse(await Deno.readTextFile(`${folder}/model.json`));
    const cases: [(m: typeof good) => void, string][] = [
      [(m) => m.architecture.layers = 0, "architecture.layers"],
      [(m) => m.architecture.kvHeads = 3, "architecture.heads"],
      [(m) => m.tokens.mask = 999, "tokens"],
      [(m) => m.blockLength.default = 7, "blockLength.default"],
      [(m) => m.cache = "none", "cache"],
      [(m) => m.blockLength = { default: "canvas" }, "blockLength.default"],
      [(m) => m.blockStart = "predicted", "blockStart"],
      [(m) => m.defaults.unmasking = "magic", "defaults.unmasking"],
      [(m) => m.files.weights.sha256 = "x", "files.weights.sha256"],
      [(m) => m.files.weights.path = "../secret", "files.weights.path"],
      [(m) => m.surprise = 1, "surprise"],
    ];
    for (const [change, field] of cases) {
      const manifest = structuredClone(good);
      change(manifest);
      const error = await assertRejects(
        async () => void await parseManifest(manifest),
        EngineError,
      );
      assert(error.message.includes(field), `${field}: ${error.message}`);
    }
  }));
