/** Where an output is cut before it is judged: models go on after what was asked for. */

/** Everything before the first of `stops`. */
export function cutAt(text: string, stops: readonly string[]): string {
  const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return text.slice(0, Math.min(text.length, ...found));
}

/**
 * Whether a filled-in text is the expected one, white space at both ends aside. Where one line is expected, only the first
 * line of the output counts.
 */
export function isExpected(output: string, expected: string): boolean {
  const wanted = expected.trim();
  const written = output.trim();
  return (wanted.includes("\n") ? written : cutAt(written, ["\n"]).trim()) === wanted;
}
