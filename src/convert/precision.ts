/** Which storage form each matrix gets: the dtype that was asked for, and the exceptions of a family or a recipe. */
import * as v from "valibot";
import { EngineError } from "../errors.ts";
import { type Dtype, DTYPES } from "../manifest.ts";

/**
 * Exceptions: for a dtype, or `any` of them, patterns of our matrix names and the form of what fits. In a pattern `{i}` is
 * any layer, `first` and `last` are those layers, and `*` is any text.
 */
export const PrecisionSchema = v.strictObject({
  any: v.optional(v.record(v.string(), v.picklist(DTYPES))),
  q4: v.optional(v.record(v.string(), v.picklist(DTYPES))),
  q8: v.optional(v.record(v.string(), v.picklist(DTYPES))),
  w8a8: v.optional(v.record(v.string(), v.picklist(DTYPES))),
  fp16: v.optional(v.record(v.string(), v.picklist(DTYPES))),
  fp32: v.optional(v.record(v.string(), v.picklist(DTYPES))),
});

/** A table of exceptions. */
export type Precision = v.InferOutput<typeof PrecisionSchema>;

/**
 * The form of a matrix by its name ("layers.0.q.weight"): the first pattern that fits, a table's own dtype before `any`.
 *
 * @param tables exceptions, the ones that count first in front
 */
export function choosePrecision(
  dtype: Dtype,
  { tables, layers }: { readonly tables: readonly Precision[]; readonly layers: number },
): (name: string) => Dtype {
  const rules = tables.flatMap((table) =>
    [table[dtype], table.any].flatMap((patterns) =>
      Object.entries(patterns ?? {}).map(([pattern, form]) => ({
        fits: matcher(pattern, layers),
        form,
      }))
    )
  );
  return (name) => rules.find(({ fits }) => fits(name))?.form ?? dtype;
}

/**
 * Refuses a table with a pattern that fits nothing: a misspelt one would be ignored in silence.
 *
 * @throws {EngineError} `invalid_request`, naming the pattern
 */
export function checkPatterns(
  table: Precision,
  { names, layers }: { readonly names: readonly string[]; readonly layers: number },
): void {
  for (const [dtype, patterns] of Object.entries(table)) {
    for (const pattern of Object.keys(patterns ?? {})) {
      if (names.some(matcher(pattern, layers))) continue;
      throw new EngineError(
        "invalid_request",
        `recipe: precision.${dtype}: ${pattern} fits no matrix of this model (${names[0]}, …)`,
        { param: `precision.${dtype}` },
      );
    }
  }
}

function matcher(pattern: string, layers: number): (name: string) => boolean {
  const source = pattern
    .replace(/^layers\.first\./, "layers.0.")
    .replace(/^layers\.last\./, `layers.${layers - 1}.`)
    .split(/(\{i\}|\*)/)
    .map((part) => part === "{i}" ? "\\d+" : part === "*" ? ".*" : part.replaceAll(/\W/g, "\\$&"))
    .join("");
  const expression = new RegExp(`^${source}$`);
  return (name) => expression.test(name);
}
