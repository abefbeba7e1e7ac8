import { assert, assertEquals } from "@std/assert";
import { LIMITS, type Outcome, runBounded, runPython, runScript } from "../../src/eval/sandbox.ts";
import { available } from "../support/require.ts";

const SHORT = { ...LIMITS, seconds: 3 };

Deno.test("runScript() gives generated code no files, network, processes, variables or modules", async () => {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/secret.json`, '{"secret":1}');
  const url = `file://${folder}/secret.json`;
  // Each script passes unless it is refused; its error says by what.
  const scripts: [string, RegExp][] = [
    ['Deno.readTextFileSync("/etc/passwd");', /read access/],
    ['process.getBuiltinModule("node:fs").readFileSync("/etc/passwd");', /read access/],
    ['Deno.writeTextFileSync("/tmp/x", "");', /write access/],
    ["Deno.env.toObject();", /env access/],
    ['new Deno.Command("ls").outputSync();', /run access/],
    ["Deno.listen({ port: 0 });", /net access/],
    ['new WebSocket("ws://127.0.0.1:1");', /net access/],
    ['require("node:fs");', /cannot import node:fs/],
    [`import secret from "${url}";`, /import statement/],
  ];
  try {
    const verdicts = await Promise.all(scripts.map(([code]) => runScript(code)));
    verdicts.forEach(({ outcome, detail = "" }, i) => {
      assertEquals(outcome, "failed", scripts[i][0]);
      assert(scripts[i][1].test(detail), `${scripts[i][0]}: ${detail}`);
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("runScript() ends what takes too long, too much memory or writes too much", async () => {
  const linux = Deno.build.os === "linux"; // the bound outside the heap
  const scripts: [string, Outcome][] = [
    ['require("node:assert").equal(1, 1);', "passed"],
    ["for (;;);", "time"],
    ["Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);", "time"],
    ["const list = []; for (;;) list.push(new Array(1000).fill(Math.random()));", "memory"],
    ["for (;;) console.log('x'.repeat(1000));", "output"],
    ["for (;;) console.error('x'.repeat(1000));", "output"],
    ...linux ? [["const l = []; for (;;) l.push(new Uint8Array(5e7));", "memory"] as const] : [],
  ].map(([code, outcome]) => [code, outcome as Outcome]);
  const verdicts = await Promise.all(scripts.map(([code]) => runScript(code, SHORT)));
  assertEquals(verdicts.map(({ outcome }) => outcome), scripts.map(([, outcome]) => outcome));
});

Deno.test("runScript() passes only what ran to its end", async () => {
  const scripts: [string, Outcome][] = [
    ["Deno.exit(0);", "failed"],
    ["process.exit(0);", "failed"],
    ["throw 1;", "failed"],
    ['require("assert").equal(1, 2);', "failed"],
    ["setInterval(() => {}, 10);", "passed"], // nothing that is left over holds it up
    ["}", "failed"],
  ];
  const verdicts = await Promise.all(scripts.map(([code]) => runScript(code)));
  assertEquals(verdicts.map(({ outcome }) => outcome), scripts.map(([, outcome]) => outcome));
});

Deno.test({
  name: "runBounded() ends everything that the program started",
  ignore: Deno.build.os !== "linux", // it looks into /proc
  fn: async () => {
    const folder = await Deno.makeTempDir();
    try {
      const script = `sleep 600 & echo $! > ${folder}/pid; sleep 600`;
      const verdict = await runBounded(["/bin/sh", "-c", script], {
        input: "",
        pass: "never",
        limits: { ...LIMITS, seconds: 1 },
      });
      assertEquals(verdict.outcome, "time");
      const pid = (await Deno.readTextFile(`${folder}/pid`)).trim();
      // A zombie has ended too: nobody has collected it yet.
      const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => "");
      const state = stat.replace(/.*\) /, "").slice(0, 1);
      assert(state === "" || state === "Z", `${pid} is ${state}`);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

const python = await new Deno.Command("python3", { args: ["-c", ""] }).output()
  .then(({ success }) => success, () => false);

Deno.test({
  name: "runPython() refuses files, network, processes and early exits, and bounds time and memory",
  ...available("python3", python, "no python3 in the PATH"),
  fn: async () => {
    const programs: [string, Outcome, RegExp][] = [
      ["import math, re, typing, collections, hashlib\nassert math.gcd(4, 6) == 2", "passed", /^$/],
      ["open('/etc/passwd')", "failed", /no access to '\/etc\/passwd'/],
      ["import os\nopen(os.__file__ + '/../../../../../../../etc/passwd')", "failed", /no access/],
      ["import os\nos.open('/tmp/x', os.O_CREAT)", "failed", /no access/],
      ["import os\nos.system('true')", "failed", /not allowed: os.system/],
      ["import subprocess\nsubprocess.run(['true'])", "failed", /not allowed/],
      ["import socket\nsocket.socket()", "failed", /not allowed: socket/],
      ["import ctypes\nctypes.CDLL(None)", "failed", /not allowed: ctypes/],
      ["import sys\nsys.exit(0)", "failed", /SystemExit/],
      ["import os\nos._exit(0)", "failed", /before its tests/],
      ["def f(", "failed", /SyntaxError/],
      ["assert False, 'no'", "failed", /AssertionError: no/],
      ["while True: pass", "time", /3 s/],
      ["while True: print('x' * 1000)", "output", /65536/],
      ...Deno.build.os === "darwin"
        ? [] // no limit of the address space there
        : [["a = 'x'\nwhile True: a += a", "memory", /./] as [string, Outcome, RegExp]],
    ];
    const verdicts = await Promise.all(programs.map(([code]) => runPython(code, SHORT)));
    verdicts.forEach(({ outcome, detail = "" }, i) => {
      assertEquals(outcome, programs[i][1], `${programs[i][0]}: ${detail}`);
      assert(programs[i][2].test(detail), `${programs[i][0]}: ${detail}`);
    });
  },
});
