// @ts-check
/** What the output shows before there is any: noise out of which one sentence settles. Decoration only. */
import { make, stillness } from "./dom.js";
import { noise } from "./noise.js";

const SENTENCE = ["text crystallises", "out of noise"];
const TICK_MS = 100, SETTLE_MS = 2600;

/** @param {HTMLElement} root */
export function startIdle(root) {
  /** @type {HTMLElement[]} */
  let rows = [];
  /** Letters of the sentence and when they settle. @type {{ element: HTMLElement, letter: string, at: number }[]} */
  let letters = [];
  const began = performance.now();

  const build = () => {
    const probe = make("span", "", "0".repeat(10));
    root.replaceChildren(probe);
    const column = probe.getBoundingClientRect().width / 10;
    const line = probe.getBoundingClientRect().height;
    const columns = Math.floor(root.clientWidth / column),
      count = Math.floor(root.clientHeight / line);
    root.replaceChildren();
    rows = [];
    letters = [];
    if (columns < SENTENCE[0].length + 2 || count < 5) return;
    const first = Math.floor((count - SENTENCE.length) / 2);
    for (let r = 0; r < count; r++) {
      const row = make("div");
      const text = SENTENCE[r - first];
      if (text === undefined) {
        row.textContent = noise(columns);
        rows.push(row);
      } else {
        const left = Math.floor((columns - text.length) / 2);
        const sides = [left - 1, columns - left - text.length - 1].map((n) =>
          make("span", "", noise(n))
        );
        rows.push(...sides);
        const words = make("span", "idle-text", " ");
        for (const letter of text) {
          const element = make("span");
          words.append(element);
          // From the middle of the time on, surer letters first, in no order that can be read.
          letters.push({ element, letter, at: letter === " " ? 0 : Math.random() * SETTLE_MS });
        }
        words.append(" ");
        row.append(sides[0], words, sides[1]);
      }
      root.append(row);
    }
    tick();
  };

  const tick = () => {
    const elapsed = stillness.matches ? Infinity : performance.now() - began;
    for (const { element, letter, at } of letters) {
      const settled = elapsed >= at;
      element.textContent = settled ? letter : noise(1);
      element.className = settled ? "settled" : "";
    }
    if (stillness.matches) return;
    // While it settles, all of the noise moves; afterwards a glyph here and there.
    const lively = elapsed < SETTLE_MS ? rows : rows.filter(() => Math.random() < 0.08);
    for (const row of lively) {
      const text = row.textContent ?? "";
      const at = Math.floor(Math.random() * text.length);
      if (text.length > 0) row.textContent = text.slice(0, at) + noise(1) + text.slice(at + 1);
    }
  };

  new ResizeObserver(() => {
    if (!root.hidden) build();
  }).observe(root);
  setInterval(() => {
    if (!root.hidden && !document.hidden) tick();
  }, TICK_MS);
}
