/**
 * Runs one script that comes over standard input, in a process that has no permissions (see sandbox.ts). The script runs as a
 * function, not as a module: a module's static imports would be read from disk without a permission.
 */
import assert from "node:assert";

const { code, pass } = JSON.parse(await new Response(Deno.stdin.readable).text());
const write = Deno.stdout.writeSync.bind(Deno.stdout);
const exit = Deno.exit.bind(Deno);

const require = (name) => {
  if (/^(node:)?assert(\/strict)?$/.test(name)) return assert;
  throw new Error(`cannot import ${name}: only node:assert is there`);
};

globalThis.require = require; // not a parameter: a script may declare one of its own

try {
  new Function("module", "exports", code)({}, {});
} catch (error) {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : `thrown: ${error}`;
  console.error(text.replaceAll(/\s+/g, " ").slice(0, 2000)); // one line
  exit(1);
}
write(new TextEncoder().encode(`\n${pass}\n`)); // an early exit does not get here
exit(0);
