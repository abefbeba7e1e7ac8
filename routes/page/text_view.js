// @ts-check
/** The output in place: text as it will read, with masked cells where it is still open. */
import { heatOf } from "./cells.js";
import { make } from "./dom.js";
import { noise } from "./noise.js";

/** Columns of a masked cell: about a token of code. */
const MASK_COLUMNS = 3;

/**
 * @typedef {import("./trajectory.js").Token} Token
 * @typedef {{ element: HTMLElement, cells: HTMLElement[], tokens: readonly Token[], done: boolean }} Shown
 */

export class TextView {
  /** @type {Shown[]} */
  #shown = [];
  #output = make("span", "output");
  #root;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
  }

  /** @param {import("./trajectory.js").Trajectory} trajectory */
  reset(trajectory) {
    this.#shown = [];
    this.#output = make("span", "output");
    this.#root.replaceChildren(
      make("span", "given", trajectory.prompt),
      this.#output,
      make("span", "given", trajectory.suffix),
    );
  }

  /**
   * Shows these blocks and touches only what differs from what it shows.
   *
   * @param {readonly import("./trajectory.js").Block[]} blocks
   */
  render(blocks) {
    while (this.#shown.length > blocks.length) this.#shown.pop()?.element.remove();
    blocks.forEach((block, number) => {
      const shown = this.#shown[number] ??= this.#open(number);
      if (shown.tokens !== block.tokens) this.#update(shown, block.tokens);
      if (shown.done !== block.done) shown.element.classList.toggle("done", block.done);
      shown.done = block.done;
    });
  }

  /**
   * @param {Element} target
   * @returns {readonly [block: number, position: number] | undefined} which token an element of this view shows
   */
  locate(target) {
    const block = this.#shown.findIndex(({ element }) => element === target.parentElement);
    const position = this.#shown[block]?.cells.findIndex((cell) => cell === target) ?? -1;
    return position < 0 ? undefined : [block, position];
  }

  /** @param {number} number */
  #open(number) {
    const element = make("span", "block");
    element.dataset.block = String(number);
    this.#output.append(element);
    return { element, cells: [], tokens: [], done: false };
  }

  /**
   * @param {Shown} shown
   * @param {readonly Token[]} tokens
   */
  #update(shown, tokens) {
    const { element, cells } = shown;
    while (cells.length > tokens.length) cells.pop()?.remove();
    tokens.forEach((token, i) => {
      const before = shown.tokens[i];
      if (cells[i] === undefined) element.append(cells[i] = make("span"));
      else if (before?.[0] === token[0] && before[1] === token[1] && before[2] === token[2]) return;
      paint(cells[i], token, before?.[1] === "masked");
    });
    shown.tokens = tokens;
  }
}

/**
 * @param {HTMLElement} cell
 * @param {Token} token
 * @param {boolean} settles whether it was masked until now
 */
function paint(cell, [text, state, confidence], settles) {
  // The prompt is shown as a whole before the output, so its tokens add nothing here.
  const content = state === "unmasked" ? text : "";
  if (cell.textContent !== content) cell.textContent = content;
  if (state === "masked") {
    cell.className = "cell masked";
    cell.dataset.noise = noise(MASK_COLUMNS);
    cell.ariaHidden = "true";
    cell.style.animationDelay = `${-Math.floor(Math.random() * 2400)}ms`;
    return;
  }
  delete cell.dataset.noise;
  cell.ariaHidden = null;
  cell.style.animationDelay = "";
  cell.className = state === "given"
    ? ""
    : `cell${settles ? " fresh" : ""}${text === "" ? " void" : ""}`;
  cell.dataset.heat = String(heatOf(confidence));
}
