import { assert, assertEquals } from "@std/assert";
import { formatBytes, progressBar } from "../../src/convert/progress_bar.ts";

/** A bar on an output that keeps what is written, and a clock that the test sets. */
function barOn(output: { readonly isTTY?: boolean; readonly columns?: number }) {
  const written: string[] = [];
  let time = 0;
  const bar = progressBar(
    { ...output, write: (text) => written.push(text) },
    () => time,
  );
  return {
    bar,
    written,
    at(seconds: number, done: number) {
      time = seconds * 1000;
      bar.update({ done, total: 100e6, label: "model.safetensors" });
    },
  };
}

Deno.test("progressBar() writes a line every 10 % where there is no terminal", () => {
  const { bar, written, at } = barOn({});
  for (let percent = 0; percent <= 100; percent++) at(percent / 10, percent * 1e6);
  bar.end();
  assertEquals(written.length, 11);
  assertEquals(written[0], "  0 %  0.0 kB of 100 MB\n");
  assertEquals(written[5], " 50 %  50 MB of 100 MB  10 MB/s  5 s left\n");
  assertEquals(written[10], "100 %  100 MB of 100 MB  10 MB/s  0 s left\n");
});

Deno.test("progressBar() counts the rate without the bytes of an earlier run", () => {
  const { written, at } = barOn({});
  at(0, 80e6);
  at(2, 90e6);
  assertEquals(written, [
    " 80 %  80 MB of 100 MB\n",
    " 90 %  90 MB of 100 MB  5.0 MB/s  2 s left\n",
  ]);
});

Deno.test("progressBar() draws over one line of a terminal, and not at every update", () => {
  const { bar, written, at } = barOn({ isTTY: true, columns: 72 });
  at(0, 50e6);
  at(0.01, 51e6);
  at(1, 60e6);
  bar.end();
  bar.end();
  assertEquals(written.length, 3);
  assert(written[0].startsWith(`\r${"█".repeat(12)}${"░".repeat(12)}  50 %`), written[0]);
  assert(written[1].includes("10 MB/s  4 s left"), written[1]);
  for (const text of written.slice(0, 2)) assertEquals(text.length, 72); // \r, and 71 of 72 columns
  assertEquals(written[2], "\n");
});

Deno.test("formatBytes() keeps two or three digits", () => {
  assertEquals([0, 950, 123_456, 9_876_543, 987_654_321, 16_400_000_000].map(formatBytes), [
    "0.0 kB",
    "0.9 kB",
    "123.5 kB",
    "9.9 MB",
    "988 MB",
    "16.4 GB",
  ]);
});
