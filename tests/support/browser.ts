// deno-lint-ignore-file no-import-prefix -- in deno.json it would be downloaded by `task start` too
/** A headless Chromium for tests of the page, and what every page of ours must never do. */
import {
  type Browser,
  type BrowserContextOptions,
  chromium,
  type Page,
} from "npm:playwright-core@1.65.1";

export type { Page };

const CANDIDATES = [
  Deno.env.get("CINNABAR_CHROMIUM"),
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** Where a Chromium is installed, if one is. */
export const CHROMIUM = CANDIDATES.find((path) => path !== undefined && isFile(path));

/** For `available()` where there is none. */
export const NO_CHROMIUM =
  "no Chromium found; install it (Debian: apt-get install chromium) or name it in CINNABAR_CHROMIUM";

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false; // that is the answer
  }
}

/** Starts the browser that {@link CHROMIUM} names. */
export function openBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--no-sandbox", // containers run tests as root
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** A page under watch. */
export interface WatchedPage extends AsyncDisposable {
  readonly page: Page;
  /** What it did that it must not: errors, policy violations, requests to other hosts. */
  readonly faults: string[];
}

/** Opens `url` in a context of its own and watches the page. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    colorScheme: "light",
    ...options,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const faults: string[] = [];
  const { host } = new URL(url);
  page.on("console", (message) => { // policy violations arrive here too
    if (["error", "warning"].includes(message.type())) faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`error: ${error.stack}`));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== host) faults.push(`request: ${request.url()}`);
  });
  page.on("websocket", (socket) => {
    if (new URL(socket.url()).host !== host) faults.push(`socket: ${socket.url()}`);
  });
  await page.goto(url);
  await page.waitForSelector("#connection[data-state=open]");
  await page.waitForSelector(".chip");
  return { page, faults, [Symbol.asyncDispose]: () => context.close() };
}
