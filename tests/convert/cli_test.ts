import { assert, assertEquals } from "@std/assert";
import { loadBundle } from "../../src/loader.ts";
import { writeCheckpoint } from "../support/checkpoint.ts";
import { inTempFolder } from "../support/temp_folder.ts";

async function run(...args: string[]) {
  const cli = new URL("../../src/convert/cli.ts", import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-read", "--allow-write", "--allow-env", cli, ...args],
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

Deno.test("the convert command writes a bundle that loads, with plain lines off a terminal", () =>
  inTempFolder(async (folder) => {
    await writeCheckpoint(`${folder}/source`, { shards: 2 });
    await Deno.writeTextFile(`${folder}/recipe.json`, '{"name":"r","samplePrompts":["a"]}');
    const { code, stdout, stderr } = await run(
      `${folder}/source`,
      `${folder}/target`,
      "--name=small",
      `--recipe=${folder}/recipe.json`,
    );
    assertEquals(code, 0, stderr);
    assert(stdout.includes("100 %") && !stdout.includes("\r"), stdout);
    const { manifest } = await loadBundle(`${folder}/target`);
    assertEquals([manifest.name, manifest.dtype], ["small", "q8"]);
    assertEquals(manifest.samplePrompts, ["a"]);
  }));

Deno.test("the convert command tells what is wrong without a stack", () =>
  inTempFolder(async (folder) => {
    const cases: [string[], number, string][] = [
      [[folder], 2, "SOURCE and TARGET are needed"],
      [
        [folder, `${folder}/t`, "--dtype=q3"],
        2,
        "--dtype q3 is not one of q4, q8, w8a8, fp16, fp32",
      ],
      [[folder, `${folder}/t`, "--dtyp=q8"], 2, "--dtyp"],
      [[`${folder}/absent`, `${folder}/t`], 1, "config.json"],
      [[folder, `${folder}/t`, `--recipe=${folder}/no.json`], 1, "no.json"],
    ];
    for (const [args, expected, fact] of cases) {
      const { code, stderr } = await run(...args);
      assertEquals(code, expected, stderr);
      assert(stderr.includes(fact) && !stderr.includes("    at "), stderr);
    }
    assertEquals([...Deno.readDirSync(folder)].length, 0);
  }));
