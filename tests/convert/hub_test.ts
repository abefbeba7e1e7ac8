import { assert, assertEquals, assertRejects } from "@std/assert";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { type DownloadOptions, type DownloadProgress, parseHubId } from "../../src/convert/hub.ts";
import { openSource } from "../../src/convert/source.ts";
import { EngineError } from "../../src/errors.ts";
import { loadBundle } from "../../src/loader.ts";
import { type FakeHub, type FakeHubOptions, sendStart, withHub } from "../support/fake_hub.ts";

const WEIGHTS = "model.safetensors";

/** Names whose bytes were asked for, in order. */
const bodies = (hub: FakeHub) => hub.requests.filter((r) => r.kind === "file").map((r) => r.name);

/** Aborts a download once `count` bytes of the weights are there, and resolves to the folder of the repository. */
async function interrupt(
  download: (options: Partial<DownloadOptions>) => Promise<string>,
  files: ReadonlyMap<string, Uint8Array>,
): Promise<void> {
  const others = [...files].filter(([name]) => /json$|jinja$/.test(name));
  const before = others.reduce((sum, [, bytes]) => sum + bytes.length, 0);
  const abort = new AbortController();
  const error = await assertRejects(() =>
    download({
      signal: abort.signal,
      onProgress: ({ bytesDone }) => bytesDone === before + 5000 && abort.abort(),
    }), EngineError);
  assertEquals(error.code, "cancelled");
}

/** A hub's answer that sends 5000 bytes of the weights, the first time, and no more. */
function stopAt5000(): FakeHubOptions & { readonly release: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return {
    release: resolve,
    answer: ({ kind, name, nth, bytes }) =>
      kind === "file" && name === WEIGHTS && nth === 1
        ? sendStart(bytes, 5000, promise)
        : undefined,
  };
}

Deno.test("a model of the hub becomes the bundle that its folder becomes", () =>
  withHub({}, async ({ hub, folder, files, download, cached }) => {
    const progress: DownloadProgress[] = [];
    const source = await download({ onProgress: (one) => progress.push(one) });
    assertEquals(source, cached());
    const wanted = [
      "config.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "chat_template.jinja",
      WEIGHTS,
    ];
    assertEquals(bodies(hub), wanted);
    for (const name of wanted) {
      assertEquals(await Deno.readFile(`${source}/${name}`), files.get(name));
    }
    assert(hub.requests.filter(({ kind }) => kind === "tree").length > 1, "several pages");

    const total = wanted.reduce((sum, name) => sum + (files.get(name)?.length ?? 0), 0);
    assert(progress.every(({ bytesTotal }) => bytesTotal === total));
    assert(progress.every(({ bytesDone }, i) => i === 0 || bytesDone >= progress[i - 1].bytesDone));
    assert(progress[0].bytesDone < total && progress.at(-1)?.bytesDone === total);

    const weights: string[] = [];
    for (const from of [source, `${folder}/source`]) {
      const target = `${folder}/bundle-${weights.length}`;
      await convertCheckpoint({ source: from, target, dtype: "q8" });
      weights.push((await loadBundle(target)).manifest.files.weights.sha256);
    }
    assertEquals(weights[0], weights[1]);
  }));

Deno.test("a sharded model is downloaded by its index", () =>
  withHub({ shards: 3 }, async ({ hub, folder, download }) => {
    const source = await download();
    assertEquals(bodies(hub).filter((name) => name.startsWith("model")), [
      "model.safetensors.index.json",
      "model-1-of-3.safetensors",
      "model-2-of-3.safetensors",
      "model-3-of-3.safetensors",
    ]);
    await convertCheckpoint({ source, target: `${folder}/bundle`, dtype: "q8" });
    await loadBundle(`${folder}/bundle`);
  }));

Deno.test("a second run asks for no file, and a new commit only for what it changes", () =>
  withHub({}, async ({ hub, files, download }) => {
    const first = await download();
    hub.requests.length = 0;
    assertEquals(await download(), first);
    assertEquals(hub.requests.map(({ kind }) => kind), ["revision"]);

    hub.push(new Map([...files, ["config.json", new TextEncoder().encode('{"new":1}')]]));
    const second = await download();
    assert(second !== first);
    assertEquals(bodies(hub), ["config.json"]);
    assertEquals(await Deno.readFile(`${second}/${WEIGHTS}`), files.get(WEIGHTS));
  }));

Deno.test("a cut connection goes on with the next byte, in the same run", () => {
  const { answer, release } = stopAt5000();
  return withHub({ answer }, async ({ hub, files, download }) => {
    const source = await download({ onProgress: ({ file }) => file === WEIGHTS && release() });
    const asked = hub.requests.filter(({ kind, name }) => kind === "file" && name === WEIGHTS);
    assertEquals(asked.map(({ range }) => range), [null, "bytes=5000-"]);
    assertEquals(await Deno.readFile(`${source}/${WEIGHTS}`), files.get(WEIGHTS));
  });
});

Deno.test("an aborted download keeps what has arrived, and the next run goes on there", () => {
  const { answer, release } = stopAt5000();
  return withHub({ answer }, async ({ hub, files, download, cached }) => {
    await interrupt(download, files);
    release();
    assertEquals((await Deno.stat(`${cached()}/${WEIGHTS}.partial`)).size, 5000);
    hub.requests.length = 0;
    const notes: string[] = [];
    const source = await download({ onNote: (note) => notes.push(note) });
    const asked = hub.requests.filter(({ kind }) => kind === "file");
    assertEquals(asked.map(({ name, range }) => [name, range]), [[WEIGHTS, "bytes=5000-"]]);
    assert(notes[0].includes("goes on at 5000"), notes.join());
    assertEquals(await Deno.readFile(`${source}/${WEIGHTS}`), files.get(WEIGHTS));
    assertEquals([...Deno.readDirSync(source)].filter(({ name }) => /partial/.test(name)), []);
  });
});

Deno.test("an unfinished file moves to a new commit that has the same content", () => {
  const { answer, release } = stopAt5000();
  return withHub({ answer }, async ({ hub, files, download }) => {
    await interrupt(download, files);
    release();
    hub.push(new Map([...files, ["README.md", new TextEncoder().encode("# Tiny, better")]]));
    hub.requests.length = 0;
    const source = await download();
    const asked = hub.requests.filter(({ kind }) => kind === "file");
    assertEquals(asked.map(({ name, range }) => [name, range]), [[WEIGHTS, "bytes=5000-"]]);
    assertEquals(await Deno.readFile(`${source}/${WEIGHTS}`), files.get(WEIGHTS));
  });
});

for (
  const [what, odd] of [
    ["ignores the range", (bytes: Uint8Array<ArrayBuffer>) => new Response(bytes)],
    ["sends another range", (bytes: Uint8Array<ArrayBuffer>) =>
      new Response(bytes.subarray(100), {
        status: 206,
        headers: { "content-range": `bytes 100-${bytes.length - 1}/${bytes.length}` },
      })],
    ["has no such range", () => new Response("no", { status: 416 })],
  ] as const
) {
  Deno.test(`where the server ${what}, a download begins again at 0`, () => {
    const { answer, release } = stopAt5000();
    const options: FakeHubOptions = {
      answer: (request) =>
        request.kind === "file" && request.range !== null ? odd(request.bytes) : answer?.(request),
    };
    return withHub(options, async ({ files, download }) => {
      await interrupt(download, files);
      release();
      const source = await download();
      assertEquals(await Deno.readFile(`${source}/${WEIGHTS}`), files.get(WEIGHTS));
    });
  });
}

Deno.test("openSource() takes a folder that exists as it is, and tells both possibilities else", () =>
  withHub({}, async ({ hub, folder }) => {
    const options = { cacheDir: `${folder}/cache`, endpoint: hub.url };
    assertEquals(await openSource(`${folder}/source`, options), `${folder}/source`);
    assertEquals(hub.requests, []);
    assert((await openSource("acme/tiny@main", options)).endsWith(hub.commit));
    for (const source of [`${folder}/absent`, "./absent", "a/b/c", "tiny", "deno.json", "../a"]) {
      const { code, param, message } = await assertRejects(
        () => openSource(source, options),
        EngineError,
      );
      assertEquals([code, param], ["invalid_request", "source"]);
      assert(message.includes(source) && message.includes("config.json"), message);
      assert(message.includes("owner/name"), message);
    }
  }));

Deno.test("parseHubId() reads owner/name and owner/name@revision, and nothing else", () => {
  assertEquals(parseHubId("a-b/C.d_1"), { repo: "a-b/C.d_1", revision: "main" });
  assertEquals(parseHubId("a/b@refs/pr/3"), { repo: "a/b", revision: "refs/pr/3" });
  const others = [
    "",
    "a",
    "a/",
    "/a",
    "a/b/c",
    "../b",
    "a/..",
    "a/b@",
    "a b/c",
    "http://a/b",
    "~/a",
  ];
  for (const text of others) assertEquals(parseHubId(text), undefined, text);
});
