/** The server's command line: flags and environment, then an engine, an app, a port, and a graceful stop. */
import { curlLine, HELP, parseCli, progressLines, type ServerConfig } from "./routes/cli.ts";
import { probe, serve, type Server } from "./routes/serve.ts";
import { loadEngine } from "./src/mod.ts";

/** Exit codes: 1 for what failed, 2 for a command line that cannot be understood. */
const FAILED = 1, MISUSED = 2;

function readConfig(): ServerConfig {
  // Without it the WebGPU probe of a machine without a desktop prints an error that is none.
  if (Deno.env.get("XDG_RUNTIME_DIR") === undefined) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  try {
    const defaultModel = new URL("./models/tiny/", import.meta.url).href;
    const config = parseCli(Deno.args, Deno.env.toObject(), defaultModel);
    if (config !== "help") return config;
    console.log(HELP);
    Deno.exit(0);
  } catch (error) {
    fail(error, MISUSED);
  }
}

async function start({ host, port, model, cors, ...engineOptions }: ServerConfig): Promise<Server> {
  try {
    probe({ host, port });
    const engine = await loadEngine(model, {
      ...engineOptions,
      onProgress: progressLines((line) => console.error(line)),
    });
    const server = serve(engine, { host, port, cors });
    const { name, samplePrompts } = engine.manifest;
    console.log(`${name} on ${engine.session.description}`);
    console.log(`Cinnabar listens on ${server.url}`);
    console.log(curlLine(server.url, samplePrompts.at(0) ?? "Hello"));
    return server;
  } catch (error) {
    fail(error, FAILED);
  }
}

function fail(error: unknown, code: number): never {
  console.error(`error: ${error instanceof Error ? error.message : error}`);
  if (code === MISUSED) console.error("--help lists what can be said");
  Deno.exit(code);
}

if (import.meta.main) {
  const server = await start(readConfig());
  const signals = ["SIGINT", "SIGTERM"] as const;
  const stop = async () => {
    for (const signal of signals) Deno.removeSignalListener(signal, stop); // a second one kills
    console.log("stopping; running generations may finish");
    await server.stop().catch((error) => fail(error, FAILED));
    Deno.exit(0); // a client that never answers the close of its socket must not keep us
  };
  for (const signal of signals) Deno.addSignalListener(signal, stop);
}
