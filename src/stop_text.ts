/** Finds stop strings in text that arrives piece by piece, and holds back what may still become one. */
export interface StopText {
  /** Adds a piece. `true`: a stop string is complete, and what comes before it is all that may be taken. */
  push(piece: string): boolean;
  /** Takes the text that can no longer belong to a stop string. */
  take(): string;
  /** Takes everything that is left. */
  takeAll(): string;
}

/**
 * @param stops the stop strings; none is empty
 *
 * @example
 * ```ts
 * import { stopText } from "./stop_text.ts";
 * const text = stopText(["\n\n"]);
 * text.push("a\n");
 * if (text.take() !== "a") throw new Error("the line break must wait");
 * if (!text.push("\nb") || text.takeAll() !== "") throw new Error("stopped before the line breaks");
 * ```
 */
export function stopText(stops: readonly string[]): StopText {
  let held = "";
  let stopped = false;
  return {
    push(piece) {
      if (stopped) return true;
      held += piece;
      const found = stops.map((stop) => held.indexOf(stop)).filter((at) => at >= 0);
      if (found.length === 0) return false;
      held = held.slice(0, Math.min(...found));
      return stopped = true;
    },
    take() {
      let keep = 0;
      if (!stopped) {
        for (const stop of stops) {
          for (let n = Math.min(stop.length - 1, held.length); n > keep; n--) {
            if (stop.startsWith(held.slice(held.length - n))) keep = n;
          }
        }
      }
      const taken = held.slice(0, held.length - keep);
      held = held.slice(held.length - keep);
      return taken;
    },
    takeAll() {
      const taken = held;
      held = "";
      return taken;
    },
  };
}
