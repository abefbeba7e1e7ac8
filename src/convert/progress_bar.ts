/** How far a long piece of work has come: a bar on a terminal, a line every 10 % elsewhere. */

/** Where the bar is drawn; `process.stdout` is one. */
export interface ProgressOutput {
  readonly isTTY?: boolean;
  /** Characters of a line of the terminal. */
  readonly columns?: number;
  write(text: string): unknown;
}

/** Bytes done and to do, those done by an earlier run included, and what is being worked on. */
export interface ProgressState {
  readonly done: number;
  readonly total: number;
  readonly label: string;
}

/** A bar on one line of `out`. */
export interface ProgressBar {
  update(state: ProgressState): void;
  /** Leaves the line, so that other text can follow. */
  end(): void;
}

/** Milliseconds between two drawings of the bar. */
const REDRAW_MS = 100;

/** A bar whose clock starts with the first update; rate and time left count from there. `now` is in milliseconds. */
export function progressBar(
  out: ProgressOutput,
  now: () => number = () => performance.now(),
): ProgressBar {
  let start: { readonly at: number; readonly done: number } | undefined;
  let told = -1;
  let drawnAt = -Infinity;
  let isOpen = false;
  return {
    update({ done, total, label }) {
      const at = now();
      start ??= { at, done };
      const share = total === 0 ? 1 : done / total;
      const text = `${Math.floor(share * 100).toString().padStart(3)} %  ` +
        `${formatBytes(done)} of ${formatBytes(total)}` +
        speed(done - start.done, total - done, (at - start.at) / 1000);
      if (out.isTTY) {
        if (at - drawnAt < REDRAW_MS && done < total) return;
        drawnAt = at;
        isOpen = true;
        const bar = "█".repeat(Math.floor(share * 24)).padEnd(24, "░");
        const width = (out.columns ?? 80) - 1; // a longer line would wrap, and could not be drawn over
        out.write(`\r${`${bar} ${text}  ${label}`.slice(0, width).padEnd(width)}`);
      } else if (Math.floor(share * 10) > told) {
        told = Math.floor(share * 10);
        out.write(`${text}\n`);
      }
    },
    end() {
      if (isOpen) out.write("\n");
      isOpen = false;
    },
  };
}

function speed(bytes: number, left: number, seconds: number): string {
  if (seconds <= 0 || bytes <= 0) return "";
  const perSecond = bytes / seconds;
  return `  ${formatBytes(perSecond)}/s  ${formatSeconds(left / perSecond)} left`;
}

/** Bytes in the unit that people think in. */
export function formatBytes(bytes: number): string {
  if (bytes >= 10e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  if (bytes >= 10e6) return `${(bytes / 1e6).toFixed(0)} MB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e3).toFixed(1)} kB`;
}

function formatSeconds(seconds: number): string {
  const minutes = Math.round(seconds / 60);
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  if (minutes < 120) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
