/** Keeps what a caller wrote apart from what a template writes, through the rendering of one text. */
import { EngineError } from "./errors.ts";

/** Guards the strings of one text. */
export interface Guard {
  /**
   * A copy of a JSON value with stand-ins in its strings and in the names of its fields.
   *
   * @param param names the value in an error
   * @throws {EngineError} `invalid_request`
   */
  guard<T>(value: T, param: string): T;
  /** Puts what they stand for in the place of the stand-ins. */
  restore(text: string): string;
}

/** A text as a pattern; RegExp.escape is younger than Node 20. */
const escaped = (text: string) => text.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

/** Objects within objects that a caller may write. */
const DEEPEST = 64;
/** The private use area of the basic plane: no string method changes its characters, and no JSON escapes them. */
const PRIVATE = /[\ue000-\uf8ff]/g;
const PRIVATE_FIRST = 0xe000, PRIVATE_LAST = 0xf8ff;

/**
 * Makes guards against `tokens`: where one of these texts occurs in a string, a private character stands in for it. So one
 * does for a token's beginning at a string's end and for its end at a string's start, since a template may join strings; and
 * for each private character itself, so that any in the rendered text is known to be a stand-in.
 *
 * @param own the template's text, whose private characters are no stand-ins
 *
 * @example
 * ```ts
 * import { guardsOf } from "./guard.ts";
 * const { guard, restore } = guardsOf(["<end>"], "")();
 * const rendered = guard("a <end>", "content") + "<end>";
 * if (rendered.indexOf("<end>") !== 3) throw new Error("only the template's is left");
 * if (restore(rendered) !== "a <end><end>") throw new Error("unreachable");
 * ```
 */
export function guardsOf(tokens: readonly string[], own: string): () => Guard {
  const longestFirst = (texts: readonly string[]) =>
    [...new Set(texts)].sort((a, b) => b.length - a.length);
  const lengths = (token: string) => Array.from({ length: token.length - 1 }, (_, i) => i + 1);
  const beginnings = longestFirst(
    tokens.flatMap((token) => lengths(token).map((n) => token.slice(0, n))),
  );
  const endings = longestFirst(
    tokens.flatMap((token) => lengths(token).map((n) => token.slice(-n))),
  );
  const pattern = [...longestFirst(tokens).map(escaped), PRIVATE.source].join("|");
  const guarded = new RegExp(pattern, "g");
  const taken = new Set([...tokens, own].join("").match(PRIVATE));

  return () => {
    const standIns = new Map<string, string>();
    const originals = new Map<string, string>();
    let next = PRIVATE_FIRST;

    const standIn = (text: string): string => {
      let character = standIns.get(text);
      if (character === undefined) {
        while (taken.has(String.fromCharCode(next))) next++;
        if (next > PRIVATE_LAST) {
          throw new EngineError("invalid_request", "messages: too many private characters", {
            param: "messages",
          });
        }
        character = String.fromCharCode(next++);
        standIns.set(text, character);
        originals.set(character, text);
      }
      return character;
    };

    const guardInside = (text: string) => text.replaceAll(guarded, (found) => standIn(found));

    const guardText = (text: string): string => {
      const inside = guardInside(text);
      let rest = inside.trimStart(); // a template may trim
      const before = inside.slice(0, inside.length - rest.length);
      const after = rest.slice(rest.trimEnd().length);
      rest = rest.trimEnd();
      const ending = endings.find((part) => rest.startsWith(part)) ?? "";
      rest = rest.slice(ending.length);
      const beginning = beginnings.find((part) => rest.endsWith(part)) ?? "";
      rest = rest.slice(0, rest.length - beginning.length);
      const at = (edge: string) => edge === "" ? "" : standIn(edge);
      return before + at(ending) + rest + at(beginning) + after;
    };

    const copy = (value: unknown, param: string, depth: number): unknown => {
      if (typeof value === "string") return guardText(value);
      if (["number", "boolean", "undefined"].includes(typeof value) || value === null) return value;
      const fail = (fact: string) =>
        new EngineError("invalid_request", `${param}: ${fact}`, { param });
      if (typeof value !== "object") throw fail(`holds a ${typeof value}, which is no JSON`);
      if (depth === DEEPEST) throw fail(`is nested more than ${DEEPEST} deep`);
      if (Array.isArray(value)) return value.map((item) => copy(item, param, depth + 1));
      const fields = Object.entries(value).map(([name, field]) => {
        return [guardInside(name), copy(field, param, depth + 1)]; // names are looked up: their edges stay
      });
      return Object.fromEntries(fields);
    };

    return {
      guard: <T>(value: T, param: string) => copy(value, param, 0) as T, // of the same shape
      restore: (text) => text.replaceAll(PRIVATE, (found) => originals.get(found) ?? found),
    };
  };
}
