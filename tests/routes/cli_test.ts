import { assertEquals, assertThrows } from "@std/assert";
import { curlLine, parseCli, progressLines, UsageError } from "../../routes/cli.ts";

const parse = (args: string[], env: Record<string, string> = {}) => parseCli(args, env, "tiny");

Deno.test("parseCli() without flags and environment serves the default model to this machine", () => {
  assertEquals(parse([]), {
    port: 8000,
    host: "127.0.0.1",
    model: "tiny",
    backend: "auto",
    threads: undefined,
    slots: undefined,
    cors: [],
  });
});

Deno.test("parseCli() reads flags first, then the environment; empty variables count as unset", () => {
  const env = {
    PORT: "9000",
    HOST: "0.0.0.0",
    MODEL: "",
    BACKEND: "wasm",
    THREADS: "2",
    SLOTS: "3",
    CORS: "https://a.example, https://b.example",
  };
  assertEquals(parse(["--port", "0", "--backend=native"], env), {
    port: 0,
    host: "0.0.0.0",
    model: "tiny",
    backend: "native",
    threads: 2,
    slots: 3,
    cors: ["https://a.example", "https://b.example"],
  });
});

Deno.test("parseCli() answers --help before anything else can be wrong", () => {
  assertEquals(parse(["--help", "--port", "x"]), "help");
  assertEquals(parse(["-h"]), "help");
});

const misuse: [args: string[], env: Record<string, string>, message: string][] = [
  [["--prot", "8000"], {}, "'--prot'"],
  [["--port", "80a"], {}, '--port must be a whole number from 0 to 65535, not "80a"'],
  [["--port", "65536"], {}, "--port must be a whole number from 0 to 65535"],
  [["--port=-1"], {}, "--port must be a whole number"],
  [["--port="], {}, "--port must be a whole number"],
  [[], { PORT: "http" }, 'PORT must be a whole number from 0 to 65535, not "http"'],
  [["--threads", "0"], {}, "--threads must be a whole number from 1 to 256"],
  [["--slots", "1.5"], {}, "--slots must be a whole number from 1 to 1024"],
  [["--backend", "cuda"], {}, '--backend must be one of auto, webgpu, wasm, native, not "cuda"'],
  [["--model="], {}, "--model needs a value"],
  [["--port"], {}, "--port"],
  [["models/other"], {}, "models/other"],
];

for (const [args, env, message] of misuse) {
  Deno.test(`parseCli() refuses ${[...args, ...Object.entries(env)].join(" ")}`, () => {
    assertThrows(() => parse(args, env), UsageError, message);
  });
}

Deno.test("curlLine() survives a quote in the prompt", () => {
  assertEquals(
    curlLine("http://localhost:8000/", "it's"),
    "curl http://localhost:8000/v1/generate -H 'content-type: application/json' " +
      `-d '{"prompt":"it'\\''s","max_tokens":64}'`,
  );
});

Deno.test("progressLines() prints once a second, and nothing about a quick load", () => {
  const lines: string[] = [];
  let time = 0;
  const progress = progressLines((line) => lines.push(line), () => time);
  for (; time <= 2500; time += 100) progress({ file: "w", received: time * 1000, total: 4e6 });
  assertEquals(lines, ["loading w: 1.0 of 4.0 MB", "loading w: 2.0 of 4.0 MB"]);
});
