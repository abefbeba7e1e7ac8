import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../../", import.meta.url);

/** The floors of the house, lowest first. A file may import from lower floors, and from its own folder. */
const FLOORS: readonly (readonly string[])[] = [
  [
    "src/errors.ts",
    "src/random.ts",
    "src/stop_text.ts",
    "src/decoding.ts",
    "src/jinja.ts",
  ],
  [
    "src/safetensors.ts",
    "src/manifest.ts",
    "src/block.ts",
    "src/frame.ts",
    "src/transfer_schedule.ts",
    "src/guard.ts",
    "src/forward.ts",
  ],
  ["src/options.ts"],
  [
    "src/graph/",
    "src/tokenizer.ts",
    "src/loader.ts",
    "src/sampler.ts",
    "src/unmask.ts",
    "src/passes.ts",
  ],
  ["src/backend/", "src/chat.ts", "src/layout.ts", "src/block_text.ts"],
  ["src/session.ts"],
  ["src/remote_session.ts", "src/sequence.ts"],
  ["src/session_worker.ts", "src/scheduler.ts"],
  ["src/engine.ts"],
  ["src/mod.ts"],
  ["routes/"],
  ["main.ts"],
];

const floorOf = (path: string) =>
  FLOORS.findIndex((floor) =>
    floor.some((entry) => entry.endsWith("/") ? path.startsWith(entry) : path === entry)
  );

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(new URL(folder, ROOT))) {
    if (entry.isDirectory) yield* sources(`${folder}${entry.name}/`);
    else if (entry.name.endsWith(".ts")) yield folder + entry.name;
  }
}

/** Relative imports of a file, as paths from the root. */
async function importsOf(path: string): Promise<string[]> {
  const text = (await Deno.readTextFile(new URL(path, ROOT))).replaceAll(/^ *\*.*$/gm, "");
  const specifiers = text.matchAll(/(?:from\s+|import\(|import\s+)"(\.[^"]+)"/g);
  return [...specifiers].map(([, specifier]) =>
    new URL(specifier, new URL(path, ROOT)).href.slice(ROOT.href.length)
  );
}

Deno.test("imports only go down", async () => {
  let checked = 0;
  for (const folder of ["src/", "routes/"]) {
    for await (const path of sources(folder)) {
      if (/^src\/(convert|eval)\//.test(path)) continue; // tools beside the house: see below
      const floor = floorOf(path);
      assert(floor >= 0, `${path} has no floor: add it to this test's table`);
      for (const target of await importsOf(path)) {
        const [mine, theirs] = [path, target].map((p) => p.slice(0, p.lastIndexOf("/") + 1));
        const neighbours = mine === theirs && mine !== "src/";
        assert(neighbours || floorOf(target) < floor, `${path} imports ${target}`);
        if (path.startsWith("routes/") && !neighbours) assertEquals(target, "src/mod.ts");
        checked++;
      }
    }
  }
  assert(checked > 50, "imports must have been found");
});

Deno.test("eval stands on the public API, but for its scorer, and nothing imports eval", async () => {
  const inside: Record<string, string[]> = {
    "src/eval/bits.ts": ["src/forward.ts", "src/random.ts", "src/session.ts"],
  };
  let checked = 0;
  for (const folder of ["src/", "routes/"]) {
    for await (const path of sources(folder)) {
      for (const target of await importsOf(path)) {
        if (!path.startsWith("src/eval/")) {
          assert(!target.startsWith("src/eval/"), `${path} imports ${target}`);
        } else if (!target.startsWith("src/eval/")) {
          const allowed = ["src/mod.ts", ...inside[path] ?? []];
          assert(allowed.includes(target), `${path} imports ${target}`);
          checked++;
        }
      }
    }
  }
  assert(checked > 5, "imports must have been found");
});

Deno.test("nothing outside convert reads families or imports convert", async () => {
  for await (const path of sources("src/")) {
    if (path.startsWith("src/convert/")) continue;
    const text = await Deno.readTextFile(new URL(path, ROOT));
    assert(!/\/convert\/|families/.test(text), path);
  }
});

/** Code only: a comment may name the source of a method. */
const withoutComments = (text: string) =>
  text.replaceAll(/\/\*[^]*?\*\//g, "").replaceAll(/\/\/ .*/g, "");

Deno.test("the runtime branches on facts, never on a family's name", async () => {
  const names: string[] = [];
  for await (const entry of Deno.readDir(new URL("models/families/", ROOT))) {
    const family = JSON.parse(
      await Deno.readTextFile(new URL(`models/families/${entry.name}`, ROOT)),
    );
    names.push(family.modelType, ...family.architectures);
  }
  assert(names.length > 0);
  for (const folder of ["src/", "routes/"]) {
    for await (const path of sources(folder)) {
      const text = withoutComments(await Deno.readTextFile(new URL(path, ROOT)));
      for (const name of names) assert(!text.includes(name), `${path} names ${name}`);
    }
  }
});
