// @ts-check
/** What the two views share: how a cell looks, and how its facts are told. */

/** Least confidence of each heat above 0. */
const HEATS = [0.3, 0.5, 0.7, 0.85, 0.96];

/**
 * Confidence as one of six steps, 0 (unsure) to 5 (sure).
 *
 * @param {number} confidence
 */
export function heatOf(confidence) {
  return HEATS.filter((least) => confidence >= least).length;
}

/**
 * A token in one line, its white space visible.
 *
 * @param {string} text
 */
export function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/**
 * @param {import("./trajectory.js").Trajectory} trajectory
 * @param {number} block
 * @param {number} position
 * @param {import("./trajectory.js").Token} token
 * @returns {readonly [token: string, facts: string]}
 */
export function describe(trajectory, block, position, [text, state, confidence]) {
  const place = `block ${block}, position ${position}`;
  if (state === "masked") return ["masked", place];
  const name = text === "" ? "no text: end, or part of a character" : JSON.stringify(text);
  if (state === "given") return [name, `given by the prompt · ${place}`];
  const step = trajectory.settled[block]?.[position];
  return [name, `${percent(confidence)} sure · settled in step ${step} · ${place}`];
}

/** @param {number} fraction */
export function percent(fraction) {
  return `${(fraction * 100).toFixed(fraction > 0.995 && fraction < 1 ? 1 : 0)} %`;
}
