/** Skips that cannot hide: what a machine lacks is printed, and a failure where everything is required. */

/**
 * Options for `Deno.test` that skip a test on a machine without `what`, and print why.
 *
 * With `CINNABAR_REQUIRE_ALL=1` (as in CI) what is missing is an error instead.
 *
 * @param what the thing needed, such as "chromium"
 * @param ok whether this machine has it
 * @param why what was looked for and how to get it
 * @example
 * ```ts ignore
 * Deno.test({ name: "page", ...available("chromium", found, "no /usr/bin/chromium"), fn });
 * ```
 */
export function available(what: string, ok: boolean, why: string): { ignore: boolean } {
  if (ok) return { ignore: false };
  if (Deno.env.get("CINNABAR_REQUIRE_ALL") === "1") {
    throw new Error(`CINNABAR_REQUIRE_ALL=1 and ${what} is not available: ${why}`);
  }
  console.warn(`skipped, ${what} is not available: ${why}`);
  return { ignore: true };
}
