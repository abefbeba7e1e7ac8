import { assert, assertEquals, assertRejects } from "@std/assert";
import { downloadCheckpoint } from "../../src/convert/hub.ts";
import { EngineError } from "../../src/errors.ts";
import { sendFile, withHub } from "../support/fake_hub.ts";
import { available } from "../support/require.ts";

const WEIGHTS = "model.safetensors";
const TOKEN = "hf_secretword";

/** The error of a download, checked to hold the facts and never the token. */
async function refusal(download: () => Promise<unknown>, ...facts: string[]): Promise<EngineError> {
  const error = await assertRejects(download, EngineError);
  for (const fact of facts) assert(error.message.includes(fact), `${fact} in: ${error.message}`);
  assert(!`${error.stack} ${error.cause}`.includes(TOKEN), error.message);
  return error;
}

for (const name of [WEIGHTS, "config.json"]) {
  Deno.test(`${name} with another hash than the listed one is deleted, and both hashes are told`, () => {
    let wrong = true;
    return withHub({
      answer: ({ kind, name: asked, bytes, range }) =>
        kind === "file" && asked === name && wrong
          ? sendFile(bytes.map((byte, i) => i === 9 ? byte ^ 1 : byte), range)
          : undefined,
    }, async ({ files, download, cached }) => {
      const { message } = await refusal(download, name, "deleted");
      assertEquals(
        message.match(name === WEIGHTS ? /\b[0-9a-f]{64}\b/g : /\b[0-9a-f]{40}\b/g)?.length,
        2,
      );
      const left = [...Deno.readDirSync(cached())].map((entry) => entry.name);
      assertEquals(left.filter((file) => file.startsWith(name)), []);
      wrong = false;
      assertEquals(await Deno.readFile(`${await download()}/${name}`), files.get(name));
    });
  });
}

Deno.test("a resumed file is hashed in whole, so that a wrong beginning is found", () =>
  withHub({}, async ({ hub, files, download, cached }) => {
    await Deno.mkdir(cached(), { recursive: true });
    await Deno.writeFile(`${cached()}/${WEIGHTS}.partial`, new Uint8Array(5000));
    await refusal(download, WEIGHTS, "sha256");
    assert(hub.requests.some(({ range }) => range === "bytes=5000-"));
    assertEquals(await Deno.readFile(`${await download()}/${WEIGHTS}`), files.get(WEIGHTS));
  }));

Deno.test("a file that is longer than listed is not written to the end", () =>
  withHub({
    answer: ({ kind, name, bytes }) =>
      kind === "file" && name === WEIGHTS
        ? new Response(new Blob([bytes, new Uint8Array(10)]))
        : undefined,
  }, async ({ download }) => void await refusal(download, WEIGHTS, "more than")));

Deno.test("a gated or private model says so, and how to give a token", async () => {
  for (const [what, status] of [["files", "(403)"], ["all", "(401)"]] as const) {
    await withHub({ needs: { token: TOKEN, what } }, async ({ hub, download }) => {
      const facts = [hub.host, "acme/tiny", status, "gated or private"];
      await refusal(download, ...facts, "set HF_TOKEN to an access token");
      await refusal(() => download({ token: "hf_other" }), ...facts, "HF_TOKEN was sent");
      await download({ token: TOKEN });
    });
  }
});

Deno.test("the token goes to the hub, and to no other host", async () => {
  await withHub({ needs: { token: TOKEN, what: "all" } }, async ({ hub, download }) => {
    await download({ token: TOKEN });
    const sentTo = (host: string) =>
      new Set(hub.requests.filter((one) => one.host === host).map((one) => one.authorization));
    assertEquals([...sentTo("hub")], [`Bearer ${TOKEN}`]);
    assertEquals([...sentTo("cdn")], [null]);
  });
  await withHub({ pagesElsewhere: true }, async ({ hub, download }) => {
    await download({ token: TOKEN });
    const pages = hub.requests.filter(({ kind, host }) => kind === "tree" && host === "cdn");
    assert(pages.length > 0 && pages.every(({ authorization }) => authorization === null));
  });
});

Deno.test("a token that no header can carry is refused without showing it", () =>
  withHub({}, async ({ download }) => {
    const error = await refusal(() => download({ token: `${TOKEN}\nx` }), "HF_TOKEN");
    assertEquals([error.code, error.param], ["invalid_request", "token"]);
  }));

Deno.test("a redirect to a file of this machine is not followed", () =>
  withHub({
    answer: ({ kind, name }) =>
      kind === "resolve" && name === WEIGHTS
        ? new Response(null, { status: 302, headers: { location: "file:///etc/passwd" } })
        : undefined,
  }, async ({ download }) => void await refusal(download, "cannot reach")));

Deno.test("a model or revision that does not exist is named", () =>
  withHub({}, async ({ hub, folder }) => {
    const options = { cacheDir: `${folder}/cache`, endpoint: hub.url };
    const ask = (repo: string, revision: string, token?: string) => () =>
      downloadCheckpoint({ repo, revision }, { ...options, token });
    // without a token a hub does not tell whether there is such a model
    await refusal(ask("acme/nothing", "main"), hub.host, "acme/nothing", "does not exist");
    await refusal(
      ask("acme/nothing", "main", TOKEN),
      "no model acme/nothing",
      "no folder of that name",
    );
    await refusal(ask("acme/tiny", "v9"), "acme/tiny", "RevisionNotFound");
  }));

Deno.test("a repository without the files of a checkpoint says which are missing", () =>
  withHub({}, async ({ hub, files, download }) => {
    const without = (...names: string[]) =>
      new Map([...files].filter(([name]) => !names.includes(name)));
    hub.push(without("tokenizer.json"));
    const { code } = await refusal(download, "no tokenizer.json");
    assertEquals(code, "checkpoint_unsupported");
    hub.push(without(WEIGHTS));
    await refusal(
      download,
      "no model.safetensors (or model.safetensors.index.json)",
      "pytorch_model.bin",
    );
    const index = { weight_map: { a: "model-1-of-2.safetensors" } };
    hub.push(
      new Map([
        ...without(WEIGHTS),
        ["model.safetensors.index.json", new TextEncoder().encode(JSON.stringify(index))],
      ]),
    );
    await refusal(download, "the repository has no model-1-of-2.safetensors");
    assert(hub.requests.every(({ kind, name }) => kind !== "file" || !/safetensors$/.test(name)));
  }));

Deno.test("a checkpoint that beforeWeights refuses costs no more than its config", () =>
  withHub({}, async ({ hub, download }) => {
    const beforeWeights = async (folder: string) => {
      await Deno.stat(`${folder}/config.json`);
      throw new EngineError("checkpoint_unsupported", "not this one");
    };
    await refusal(() => download({ beforeWeights }), "not this one");
    assertEquals(
      hub.requests.filter(({ kind }) => kind === "file").map(({ name }) => name),
      ["config.json"],
    );
  }));

Deno.test("a hub that is away is named, and that a folder will do", () =>
  withHub({}, async ({ hub, download }) => {
    await hub.close();
    const error = await refusal(download, hub.host, "acme/tiny", "a folder with the checkpoint");
    assertEquals([error.code, error.param], ["checkpoint_unavailable", "endpoint"]);
  }));

Deno.test("without the hub a cached commit is taken, and a note says so", () =>
  withHub({}, async ({ hub, folder, download }) => {
    const source = await download();
    await hub.close();
    const notes: string[] = [];
    assertEquals(await download({ onNote: (note) => notes.push(note) }), source);
    assert(notes[0].includes(`cannot reach ${hub.host}`), notes.join());
    assert(notes[0].includes(hub.commit), notes.join());

    const options = { cacheDir: `${folder}/cache`, endpoint: hub.url, backoffMs: 1 };
    const at = (revision: string) => downloadCheckpoint({ repo: "acme/tiny", revision }, options);
    assertEquals(await at(hub.commit), source);
    await refusal(() => at("v9"), "cannot reach"); // was never downloaded
    await Deno.remove(`${source}/${WEIGHTS}`); // no longer complete
    await refusal(download, "cannot reach");
    await refusal(() => at(hub.commit), "cannot reach");
  }));

Deno.test("what a server calls temporary is asked again, after the pause that it names", () =>
  withHub({
    answer: ({ kind, name, nth }) => {
      if (kind === "revision" && nth === 1) {
        return new Response(null, { status: 429, headers: { ratelimit: '"api";r=0;t=0' } });
      }
      if (kind === "file" && name === WEIGHTS && nth === 1) {
        return new Response(null, { status: 503, headers: { "retry-after": "0" } });
      }
    },
    // our own pause would be an hour
  }, async ({ download }) => void await download({ backoffMs: 3_600_000 })));

Deno.test("a server that stays broken is asked a few times only", () =>
  withHub({
    answer: ({ kind, name }) =>
      kind === "file" && name === WEIGHTS ? new Response(null, { status: 500 }) : undefined,
  }, async ({ hub, download }) => {
    await refusal(download, hub.host, "500", "the next run goes on");
    const asked = hub.requests.filter(({ kind, name }) => kind === "file" && name === WEIGHTS);
    assertEquals(asked.length, 6);
  }));

Deno.test("a server that asks for a long pause is not waited for", () =>
  withHub({
    answer: () => new Response(null, { status: 429, headers: { "retry-after": "7200" } }),
  }, async ({ hub, download }) => {
    await refusal(download, "429", "asks to wait 7200 s");
    assertEquals(hub.requests.length, 1);
  }));

Deno.test("a connection that falls silent is broken off and tried again", () => {
  const silence = Promise.withResolvers<undefined>();
  return withHub({
    answer: ({ kind, nth }) => kind === "revision" && nth === 1 ? silence.promise : undefined,
  }, async ({ download }) => {
    await download({ stallMs: 500 });
    silence.resolve(undefined);
  });
});

Deno.test("a folder that cannot be written is named", () =>
  withHub({}, async ({ folder, download }) => {
    await Deno.writeTextFile(`${folder}/cache`, "a file");
    const error = await refusal(download, `cannot write ${folder}/cache/`, "--cache");
    assertEquals([error.code, error.param], ["checkpoint_unavailable", "cacheDir"]);
  }));

Deno.test({
  name: "a full disk is told with the path of the file",
  ...available("/dev/full", Deno.build.os === "linux", "only Linux has this device"),
  fn: () =>
    withHub({}, async ({ download, cached }) => {
      await Deno.mkdir(cached(), { recursive: true });
      await Deno.symlink("/dev/full", `${cached()}/${WEIGHTS}.partial`);
      await refusal(
        download,
        `cannot write ${cached()}/${WEIGHTS}.partial`,
        "No space left on device",
      );
    }),
});
