// @ts-check
/** The noise that masked positions are made of. */
import { stillness } from "./dom.js";

// In every monospace font, one column wide, and none of them a letter: noise must not read as text.
const GLYPHS = "+*=~^:;|/\\<>#%&$?!-_{}[]()'\"";
const STILL = "·";
const TICK_MS = 90;

/**
 * @param {number} length
 * @returns {string} as many random glyphs
 */
export function noise(length) {
  if (stillness.matches) return STILL.repeat(length);
  let text = "";
  for (let i = 0; i < length; i++) text += GLYPHS[Math.floor(Math.random() * GLYPHS.length)];
  return text;
}

/**
 * Lets the masked cells below `root` change now and then, while `running` says so and somebody can see it.
 *
 * @param {HTMLElement} root
 * @param {() => boolean} running
 */
export function shimmer(root, running) {
  setInterval(() => {
    if (document.hidden || stillness.matches || !running()) return;
    for (const cell of root.querySelectorAll(".masked")) {
      if (Math.random() < 0.3 && cell instanceof HTMLElement) {
        cell.dataset.noise = noise(cell.dataset.noise?.length ?? 1);
      }
    }
  }, TICK_MS);
}
