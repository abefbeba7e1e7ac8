/** Chat templates run as transformers runs them, over @huggingface/jinja. */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** What a template says through `raise_exception`. */
export class TemplateException extends Error {}

/** Names that a template has besides its variables; they cannot be given anew. */
export const TEMPLATE_GLOBALS: readonly string[] = [
  "namespace", // the library's own
  ...Object.keys(globals()),
];

/**
 * Compiles a template; the result renders it with its variables.
 *
 * @throws {SyntaxError} in the call; the renderer throws {@link TemplateException} and the library's errors
 *
 * @example
 * ```ts
 * import { compileTemplate } from "./jinja.ts";
 * const render = compileTemplate("{% for name in names %}{{ name.strip('-') }} {% endfor %}");
 * if (render({ names: ["--a", "b-"] }) !== "a b ") throw new Error("unreachable");
 * ```
 */
export function compileTemplate(
  source: string,
): (variables: Readonly<Record<string, unknown>>) => string {
  const program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  honourStripArguments(program);
  return (variables) => {
    const environment = new Environment();
    for (const [name, value] of Object.entries({ ...variables, ...globals(), ...STRIP })) {
      environment.set(name, value);
    }
    return String(new Interpreter(environment).run(program).value);
  };
}

function globals() {
  return {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    raise_exception(message: unknown) {
      throw new TemplateException(String(message));
    },
    strftime_now: (format: string) => strftime(new Date(), format),
    range(first: number, last?: number, step = 1) {
      const [from, to] = last === undefined ? [0, first] : [first, last];
      if (step === 0) throw new RangeError("range() with a step of 0");
      return Array.from({ length: Math.max(0, Math.ceil((to - from) / step)) }, (_, i) => {
        return from + i * step;
      });
    },
  };
}

const strip = (start: boolean, end: boolean) => (text: unknown, characters: unknown) => {
  if (typeof text !== "string") throw new TypeError("strip() of what is no text");
  if (typeof characters !== "string") { // none: white space
    return start ? end ? text.trim() : text.trimStart() : text.trimEnd();
  }
  const [set, units] = [new Set(characters), [...text]];
  let from = 0, to = units.length;
  while (start && from < to && set.has(units[from])) from++;
  while (end && from < to && set.has(units[to - 1])) to--;
  return units.slice(from, to).join("");
};

/** Python's methods under names that no template uses, called with the text first. */
const STRIP = {
  "str.strip": strip(true, true),
  "str.lstrip": strip(true, false),
  "str.rstrip": strip(false, true),
};

/** The parts of a call in the library's syntax tree, which it does not export types of. */
interface Call {
  type: unknown;
  callee?: { type: unknown; computed: boolean; object: unknown; property: { value: unknown } };
  args: unknown[];
}

/**
 * The library's strip methods ignore which characters to strip (0.5.11), and would take the indentation off code that a
 * template only takes line breaks from: a method call with an argument becomes a call of {@link STRIP}.
 */
function honourStripArguments(node: unknown): void {
  if (Array.isArray(node) || node instanceof Map) {
    for (const child of node) honourStripArguments(child);
  } else if (typeof node === "object" && node !== null) {
    for (const child of Object.values(node)) honourStripArguments(child);
    const call = node as Call; // it says by its type whether it is one
    if (call.type !== "CallExpression" || call.callee?.type !== "MemberExpression") return;
    const { computed, object, property } = call.callee;
    const name = `str.${property.value}`;
    if (computed || !Object.hasOwn(STRIP, name) || call.args.length === 0) return;
    Object.assign(call, {
      callee: { type: "Identifier", value: name },
      args: [object, ...call.args],
    });
  }
}

const MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
  .concat("August", "September", "October", "November", "December");
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** Python's strftime in the C locale (English names), for the codes that templates use. */
export function strftime(date: Date, format: string): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const codes: Record<string, string> = {
    "Y": String(date.getFullYear()),
    "y": two(date.getFullYear() % 100),
    "m": two(date.getMonth() + 1),
    "B": MONTHS[date.getMonth()],
    "b": MONTHS[date.getMonth()].slice(0, 3),
    "d": two(date.getDate()),
    "A": DAYS[date.getDay()],
    "a": DAYS[date.getDay()].slice(0, 3),
    "H": two(date.getHours()),
    "I": two(date.getHours() % 12 || 12),
    "p": date.getHours() < 12 ? "AM" : "PM",
    "M": two(date.getMinutes()),
    "S": two(date.getSeconds()),
    "%": "%",
  };
  return format.replaceAll(/%([A-Za-z%])/g, (whole, code) => codes[code] ?? whole);
}
