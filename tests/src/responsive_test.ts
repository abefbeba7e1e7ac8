import { assert, assertEquals } from "@std/assert";
import { createApp } from "../../routes/mod.ts";
import { loadBundle, loadEngine } from "../../src/mod.ts";
import { TINY } from "../support/tiny.ts";

Deno.test({
  name: "GET /healthz answers within 50 ms while the real model generates",
  // the Worker's runtime keeps handles until the process ends
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using engine = await loadEngine(TINY, { backend: "wasm" });
    await using server = Deno.serve({ port: 0, onListen() {} }, createApp(engine).fetch);
    await engine.generate("warm", { maxTokens: 4 });
    const runs = [1, 2, 3].map((seed) =>
      engine.generate("function ", { maxTokens: 200, seed, temperature: 1.2 })
    );
    const waits: number[] = [];
    let running = true;
    const done = Promise.all(runs).finally(() => running = false);
    while (running) {
      const start = performance.now();
      const response = await fetch(`http://127.0.0.1:${server.addr.port}/healthz`);
      assertEquals(await response.json(), { status: "ok" });
      waits.push(performance.now() - start);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await done;
    assert(waits.length >= 5, `only ${waits.length} answers while it ran`);
    // the promise is about our event loop; one answer in twenty may be the machine's noise
    const slow = waits.filter((ms) => ms >= 50);
    assert(slow.length <= waits.length / 20, `${slow.length} of ${waits.length}: ${slow}`);
  },
});

Deno.test({
  name: "loadEngine() leaves a caller's bundle whole: it serves a second engine",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const bundle = await loadBundle(TINY);
    const texts: string[] = [];
    for (let engines = 0; engines < 2; engines++) {
      await using engine = await loadEngine(bundle, { backend: "wasm", threads: 1 });
      texts.push((await engine.generate("function ", { maxTokens: 12 })).text);
    }
    assertEquals(bundle.weights.length, bundle.manifest.files.weights.bytes);
    assertEquals(texts[0], texts[1]);
    await using own = await loadEngine(TINY, { backend: "wasm", threads: 1 }); // this one is handed over
    assertEquals((await own.generate("function ", { maxTokens: 12 })).text, texts[0]);
  },
});
