import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { Hono } from "hono";
import { createApp } from "../../routes/mod.ts";
import { loadEngine } from "../../src/mod.ts";
import { CHROMIUM, NO_CHROMIUM, openBrowser, openPage, type Page } from "../support/browser.ts";
import { available } from "../support/require.ts";
import { spellingScript } from "../support/scripted_session.ts";
import { eventually, openEngine, openServer } from "../support/serve.ts";
import { TINY } from "../support/tiny.ts";

const needsChromium = available("chromium", CHROMIUM !== undefined, NO_CHROMIUM);
const PASS_MS = 30;

/** Tokens of the output by state, as they are on the page now. */
const countCells = (page: Page) =>
  page.evaluate(() => ({
    masked: document.querySelectorAll("#text .masked").length,
    settled: document.querySelectorAll("#text .cell:not(.masked)").length,
  }));

/** Records the counts at every change of the page, from inside it: polling from here would miss some on a busy machine. */
async function watchCells(page: Page) {
  interface Watched {
    cellCounts?: { masked: number; settled: number }[];
  }
  await page.evaluate(() => {
    const seen: { masked: number; settled: number }[] = [];
    (globalThis as Watched).cellCounts = seen;
    new MutationObserver(() => {
      seen.push({
        masked: document.querySelectorAll("#text .masked").length,
        settled: document.querySelectorAll("#text .cell:not(.masked)").length,
      });
    }).observe(document.body, { subtree: true, childList: true, attributes: true });
  });
  return { seen: () => page.evaluate(() => (globalThis as Watched).cellCounts ?? []) };
}

const outputText = (page: Page) =>
  page.evaluate(() => document.querySelector("#text .output")?.textContent ?? "");

const focusedId = (page: Page) => page.evaluate(() => document.activeElement?.id);

const finished = (page: Page) => page.waitForSelector("#stage:not(.live) #status:text('Finished')");

/** Moves the focus by Tab alone until it is on `id`. */
async function tabTo(page: Page, id: string): Promise<void> {
  for (let i = 0; i < 40; i++) {
    if (await focusedId(page) === id) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`Tab does not reach #${id}`);
}

/** The text that the server's other door gives for the same question. */
async function textOverHttp(url: string, body: object): Promise<string> {
  const response = await fetch(`${url}/v1/generate`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return (await response.json()).text;
}

const overflow = (page: Page) =>
  page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

Deno.test({
  name: "the page in a browser",
  ...needsChromium,
  async fn(t) {
    const browser = await openBrowser();
    try {
      await t.step("by keyboard alone, masked cells turn into the server's text", async () => {
        await using server = openServer({ delayMs: PASS_MS });
        await using watched = await openPage(browser, `${server.url}/`);
        const { page, faults } = watched;
        await tabTo(page, "prompt");
        await page.keyboard.press("Control+A");
        await page.keyboard.type("const answer =");
        await tabTo(page, "max_tokens");
        await page.keyboard.press("Control+A");
        await page.keyboard.type("40");
        const watch = await watchCells(page);
        await page.keyboard.press("Control+Enter");

        await page.waitForSelector("#text .masked");
        await finished(page);
        const seen = await watch.seen();
        assert(seen.some(({ masked, settled }) => masked > 0 && settled > 0), "never half settled");
        assert(new Set(seen.map(({ settled }) => settled)).size > 4, "no gradual settling");
        assertEquals(await countCells(page), { masked: 0, settled: 40 });
        const text = await outputText(page);
        const expected = await textOverHttp(server.url, {
          prompt: "const answer =",
          max_tokens: 40,
          temperature: 0,
        });
        assertEquals(text, expected);
        assertEquals(await page.textContent("#stat-tokens"), "40");
        assertMatch(await page.textContent("#stat-parallel") ?? "", /^\d+\.\d\d$/);
        assertMatch(await page.textContent("#status") ?? "", /40 tokens .* limit was reached/);

        await tabTo(page, "scrub"); // the trajectory, from its first frame
        await page.keyboard.press("Home");
        await page.waitForSelector("#text .masked");
        assertEquals((await countCells(page)).masked > 0, true);
        await page.keyboard.press("End");
        await page.waitForFunction(() => document.querySelector("#text .masked") === null);
        assertEquals(await outputText(page), expected);

        await page.check("input[value=lattice]", { force: true });
        await tabTo(page, "scroller");
        await page.keyboard.press("Tab"); // into the lattice
        await page.keyboard.press("End");
        const label = await page.evaluate(() => document.activeElement?.ariaLabel);
        assertMatch(label ?? "", /% sure · settled in step \d+ · block \d, position \d+$/);
        assertEquals(await page.textContent("#tip"), label?.replace(", ", ""));
        assertEquals(faults, []);
      });

      await t.step("Escape cancels, and the next generation runs", async () => {
        await using server = openServer({ delayMs: PASS_MS });
        await using watched = await openPage(browser, `${server.url}/#prompt=one&max_tokens=400`);
        const { page, faults } = watched;
        await page.click("#generate");
        await page.waitForSelector(".block.done");
        await page.keyboard.press("Escape");
        await page.waitForSelector("#status:text('Cancelled')");
        await eventually(() => server.engine.load.running === 0, "the server goes on");
        const kept = await outputText(page);
        assert(kept.length > 0);
        await page.fill("#max_tokens", "12");
        await page.click("#generate");
        await finished(page);
        const again = { prompt: "one", max_tokens: 12, temperature: 0 };
        assertEquals(await outputText(page), await textOverHttp(server.url, again));
        assertEquals(server.session.liveSlots(), []);
        assertEquals(faults, []);
      });

      await t.step("the server's objections stand at the field at fault", async () => {
        await using server = openServer({ delayMs: PASS_MS });
        await using watched = await openPage(browser, `${server.url}/`);
        const { page, faults } = watched;
        for (
          const [id, value, message] of [
            ["seed", "-1", /from 0 to/],
            ["seed", "soon", /must be a number/],
            ["max_tokens", "100000", /context holds 512/],
            ["prompt", "", /must not be empty/],
          ] as const
        ) {
          const before = await page.inputValue(`#${id}`);
          await page.fill(`#${id}`, value);
          await page.press(`#${id}`, "Control+Enter");
          await page.waitForSelector(`#${id}-error:visible`);
          assertMatch(await page.textContent(`#${id}-error`) ?? "", message);
          assertEquals(await page.getAttribute(`#${id}`, "aria-invalid"), "true");
          assertEquals(await focusedId(page), id);
          await page.fill(`#${id}`, before);
        }
        await page.click("#generate");
        await finished(page);
        assertEquals(await page.locator(".error:visible").count(), 0);
        assertEquals(faults, []);
      });

      await t.step("markup, line breaks and split characters arrive as they are", async () => {
        const text = `<img src=x onerror="document.title='x'">\n\t&amp; 日本 🜓\n`;
        const prompt = "<b>bold</b>\n", suffix = "</html>";
        const infill = { manifest: { infill: true } };
        const from = new TextEncoder().encode(prompt + suffix).length + 3; // and three markers
        const script = spellingScript(text, from);
        await using server = openServer({ delayMs: 10, script, ...infill });
        await using watched = await openPage(browser, `${server.url}/`);
        const { page, faults } = watched;
        await page.click("#suffix-box summary");
        await page.fill("#prompt", prompt);
        await page.fill("#suffix", suffix);
        await page.click("#generate");
        await finished(page);
        assertEquals(await outputText(page), text);
        assertEquals(await page.textContent("#text"), prompt + text + suffix);
        assertEquals(await page.locator("#text img, #text b").count(), 0);
        assertEquals(await page.title(), "Cinnabar");
        assertMatch(await page.textContent("#status") ?? "", /the text ended/);
        assertEquals(faults, []);
      });

      await t.step("a phone has no horizontal scroll, in either view", async () => {
        await using server = openServer({ delayMs: PASS_MS });
        const phone = { viewport: { width: 360, height: 740 }, hasTouch: true };
        const url = `${server.url}/#max_tokens=64&block_length=32`;
        await using watched = await openPage(browser, url, phone);
        const { page, faults } = watched;
        assertEquals(await overflow(page), 0);
        await page.click("#settings summary");
        assertEquals(await overflow(page), 0);
        await page.tap("#generate");
        await page.waitForSelector(".block[data-block='1'] .masked");
        assertEquals(await overflow(page), 0);
        await finished(page);
        await page.check("input[value=lattice]", { force: true });
        await page.waitForSelector(".crystal:visible");
        assertEquals(await overflow(page), 0);
        assertEquals(faults, []);
      });

      await t.step("dark and light follow the system, and a choice is remembered", async () => {
        await using server = openServer();
        const ground = (page: Page) =>
          page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        await using light = await openPage(browser, `${server.url}/`);
        await using dark = await openPage(browser, `${server.url}/`, {
          colorScheme: "dark",
          reducedMotion: "reduce",
        });
        assertNotEquals(await ground(light.page), await ground(dark.page));
        await light.page.click("#theme");
        assertEquals(await ground(light.page), await ground(dark.page));
        await light.page.reload();
        assertEquals(await ground(light.page), await ground(dark.page));
        await dark.page.click("#generate"); // without motion it works as well
        await finished(dark.page);
        assertEquals([...light.faults, ...dark.faults], []);
      });

      await t.step("when the server comes back, so does the page", async () => {
        await using test = openEngine({ delayMs: PASS_MS });
        const app = createApp(test.engine);
        const serve = (port: number) =>
          Deno.serve({ port, hostname: "127.0.0.1", onListen() {} }, app.fetch);
        let server = serve(0);
        const { port } = server.addr;
        await using watched = await openPage(browser, `http://127.0.0.1:${port}/#max_tokens=400`);
        const { page } = watched;
        await page.click("#generate");
        await page.waitForSelector(".block.done");
        await server.shutdown(); // drops the socket
        await page.waitForSelector("#banner:visible");
        assertMatch(await page.textContent("#banner-text") ?? "", /server is away/);
        assertMatch(await page.textContent("#status") ?? "", /connection was lost/);
        server = serve(port);
        await page.click("#retry").catch(() => {}); // it may have come back by itself
        await page.waitForSelector("#connection[data-state=open]");
        assertEquals(await page.isVisible("#banner"), false);
        await page.fill("#max_tokens", "8");
        await page.click("#generate");
        await finished(page);
        await page.close();
        await server.shutdown();
      });

      await t.step("below a prefix everything is found", async () => {
        await using test = openEngine();
        const app = new Hono().route("/lm", createApp(test.engine));
        await using server = Deno.serve(
          { port: 0, hostname: "127.0.0.1", onListen() {} },
          app.fetch,
        );
        const url = `http://127.0.0.1:${server.addr.port}/lm`;
        await using watched = await openPage(browser, url);
        await watched.page.click("#generate");
        await finished(watched.page);
        assertEquals(watched.faults, []);
      });

      await t.step(
        "a model that knows no blocks offers its whole canvas, and decodes its way",
        async () => {
          await using server = openServer({
            manifest: {
              blockLength: { default: "canvas" },
              facts: {
                attention: "bidirectional",
                cache: "none",
                blockGrid: "prompt",
                defaults: { unmasking: "entropy", temperature: 0.5 },
              },
            },
          });
          await using watched = await openPage(browser, `${server.url}/`);
          const { page, faults } = watched;
          await page.waitForSelector("input[name=block_length][value=canvas]:checked", {
            state: "attached",
          });
          assertEquals(await page.inputValue("#unmasking"), "entropy");
          assertEquals(await page.inputValue("#temperature"), "0.5");
          await page.fill("#max_tokens", "12");
          await page.keyboard.press("Control+Enter");
          await finished(page);
          assertEquals(await countCells(page), { masked: 0, settled: 12 });
          assertEquals(faults, []);
        },
      );

      await t.step("the shipped model crystallises", async () => {
        await using engine = await loadEngine(TINY.href);
        const app = createApp(engine);
        await using server = Deno.serve(
          { port: 0, hostname: "127.0.0.1", onListen() {} },
          app.fetch,
        );
        const url = `http://127.0.0.1:${server.addr.port}`;
        await using watched = await openPage(browser, `${url}/#max_tokens=48&temperature=0`);
        const { page, faults } = watched;
        const prompt = engine.manifest.samplePrompts[1];
        await page.click(".chip:nth-child(2)");
        assertEquals(await page.inputValue("#prompt"), prompt);
        await page.keyboard.press("Control+Enter");
        await page.waitForSelector("#text .masked");
        await finished(page);
        const expected = await textOverHttp(url, { prompt, max_tokens: 48, temperature: 0 });
        assertEquals(await outputText(page), expected);
        assertEquals(faults, []);
      });
    } finally {
      await browser.close();
    }
  },
});
