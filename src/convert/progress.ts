/** The progress bar of convert: bytes, rate and time left; plain lines where there is no terminal. */
import type { ConvertProgress } from "./convert.ts";

const BAR_WIDTH = 24;
/** Milliseconds between two drawings, and between two plain lines. */
const REDRAW_MS = 100;
const LINE_MS = 5000;

/** Prints progress until `end` is called. */
export interface ProgressPrinter {
  update(progress: ConvertProgress): void;
  end(): void;
}

/**
 * Makes a printer.
 *
 * @param options.terminal draws one line again and again instead of adding lines
 * @param options.now clock in milliseconds, for tests
 */
export function progressPrinter(
  out: { writeSync(bytes: Uint8Array): number },
  options: { readonly terminal: boolean; readonly now?: () => number },
): ProgressPrinter {
  const now = options.now ?? (() => performance.now());
  const started = now();
  let printed = -Infinity;
  let open = false; // a drawn line still waits for its line end
  const write = (text: string) => out.writeSync(new TextEncoder().encode(text));
  return {
    update(progress) {
      const at = now();
      const last = progress.done === progress.total;
      if (!last && at - printed < (options.terminal ? REDRAW_MS : LINE_MS)) return;
      printed = at;
      const line = progressLine(progress, (at - started) / 1000);
      write(options.terminal ? `\r\x1b[K${line}` : `${line}\n`);
      open = options.terminal;
    },
    end() {
      if (open) write("\n");
      open = false;
    },
  };
}

/**
 * One line of progress.
 *
 * @example
 * ```ts
 * import { progressLine } from "./progress.ts";
 * const line = progressLine({ tensor: "embed.weight", done: 5e6, total: 2e7 }, 2);
 * if (!line.includes("25%") || !line.includes("2.5 MB/s") || !line.includes("6 s left")) throw new Error(line);
 * ```
 */
export function progressLine({ tensor, done, total }: ConvertProgress, seconds: number): string {
  const filled = Math.round(BAR_WIDTH * done / total);
  const bar = "#".repeat(filled) + "-".repeat(BAR_WIDTH - filled);
  const rate = seconds > 0 ? done / seconds : 0;
  const left = done === total
    ? `${formatSeconds(seconds)} in all`
    : rate > 0
    ? `${formatSeconds((total - done) / rate)} left`
    : "";
  const percent = `${Math.floor(100 * done / total)}%`.padStart(4);
  return `[${bar}]${percent} ${formatBytes(done)} of ${formatBytes(total)}, ` +
    `${formatBytes(rate)}/s, ${left} ${tensor}`.trimEnd();
}

/** Bytes in decimal units. */
export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${Math.round(bytes / 1e3)} kB`;
}

function formatSeconds(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
