// @ts-check
/** The output as a lattice: one cell per position, block after block, with the step in which each settled. */
import { describe, heatOf, visible } from "./cells.js";
import { make } from "./dom.js";
import { noise } from "./noise.js";

const LEAST_CELL_PX = 52;
const STRIDES = /** @type {Record<string, (columns: number) => number>} */ ({
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowUp: (columns) => -columns,
  ArrowDown: (columns) => columns,
  Home: () => -Infinity,
  End: () => Infinity,
});

/**
 * @typedef {import("./trajectory.js").Token} Token
 * @typedef {import("./trajectory.js").Trajectory} Trajectory
 * @typedef {object} Shown
 * @property {HTMLElement} element
 * @property {HTMLElement} title
 * @property {HTMLElement} grid
 * @property {HTMLElement[]} cells
 * @property {readonly Token[]} tokens
 * @property {number} steps
 */

export class LatticeView {
  /** @type {Shown[]} */
  #shown = [];
  /** @type {Trajectory | undefined} */
  #trajectory;
  /** The one cell in the tab order; arrows move it. @type {HTMLElement | undefined} */
  #tabStop;
  #columns = 1;
  #root;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    new ResizeObserver(() => this.#fit()).observe(root);
    root.addEventListener("keydown", (event) => this.#move(event));
    root.addEventListener("focusin", ({ target }) => {
      if (target instanceof HTMLElement) this.#rove(target);
    });
  }

  /** @param {Trajectory} trajectory */
  reset(trajectory) {
    this.#trajectory = trajectory;
    this.#shown = [];
    this.#root.replaceChildren();
    this.#fit();
  }

  /**
   * Shows these blocks and touches only what differs from what it shows.
   *
   * @param {readonly import("./trajectory.js").Block[]} blocks
   */
  render(blocks) {
    while (this.#shown.length > blocks.length) this.#shown.pop()?.element.remove();
    blocks.forEach(({ tokens }, number) => {
      const shown = this.#shown[number] ??= this.#open(number);
      if (shown.tokens !== tokens) this.#update(shown, number, tokens);
    });
    if (this.#tabStop?.isConnected !== true) this.#rove(this.#shown[0]?.cells[0]);
  }

  /**
   * @param {Element} target
   * @returns {readonly [block: number, position: number] | undefined} which token an element of this view shows
   */
  locate(target) {
    const cell = target.closest(".crystal");
    const block = this.#shown.findIndex(({ grid }) => grid === cell?.parentElement);
    const position = this.#shown[block]?.cells.findIndex((other) => other === cell) ?? -1;
    return position < 0 ? undefined : [block, position];
  }

  /** @param {number} number */
  #open(number) {
    const element = make("div", "lattice-block");
    const title = make("p", "lattice-title");
    const grid = make("div", "lattice-grid");
    grid.role = "group";
    grid.ariaLabel = `Block ${number}`;
    element.append(title, grid);
    this.#root.append(element);
    return { element, title, grid, cells: [], tokens: [], steps: 0 };
  }

  /**
   * @param {Shown} shown
   * @param {number} number
   * @param {readonly Token[]} tokens
   */
  #update(shown, number, tokens) {
    const { grid, cells } = shown;
    const trajectory = this.#trajectory;
    while (cells.length > tokens.length) cells.pop()?.remove();
    let open = 0;
    tokens.forEach((token, i) => {
      const before = shown.tokens[i];
      if (token[1] === "masked") open++;
      if (cells[i] === undefined) grid.append(cells[i] = emptyCell());
      else if (before?.[0] === token[0] && before[1] === token[1] && before[2] === token[2]) return;
      paint(cells[i], token, trajectory?.settled[number]?.[i], before?.[1] === "masked");
      if (trajectory !== undefined) {
        cells[i].ariaLabel = describe(trajectory, number, i, token).join(", ");
      }
    });
    shown.tokens = tokens;
    const facts = open > 0 ? `${open} open` : `${trajectory?.steps[number] ?? "?"} steps`;
    shown.title.textContent = `block ${number} · ${facts}`;
  }

  /** As many columns as have room, in whole rows. */
  #fit() {
    const length = this.#trajectory?.blockLength ?? 0;
    const width = this.#root.clientWidth;
    if (length === 0 || width === 0) return;
    const most = Math.max(1, Math.floor(width / LEAST_CELL_PX));
    this.#columns = 1;
    for (let n = 1; n <= Math.min(most, length); n++) if (length % n === 0) this.#columns = n;
    this.#root.style.setProperty("--columns", String(this.#columns));
  }

  /** @param {HTMLElement | undefined} cell */
  #rove(cell) {
    if (cell?.classList.contains("crystal") !== true) return;
    if (this.#tabStop !== undefined) this.#tabStop.tabIndex = -1;
    this.#tabStop = cell;
    cell.tabIndex = 0;
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    const stride = STRIDES[event.key];
    if (stride === undefined || !(event.target instanceof HTMLElement)) return;
    const cells = this.#shown.flatMap((shown) => shown.cells);
    const at = cells.indexOf(event.target);
    if (at < 0) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(cells.length - 1, at + stride(this.#columns)));
    cells[next].focus();
  }
}

function emptyCell() {
  const cell = make("div", "crystal");
  cell.role = "img"; // its label says more than its content
  cell.tabIndex = -1;
  cell.append(make("span", "crystal-text"), make("span", "crystal-step"));
  return cell;
}

/**
 * @param {HTMLElement} cell
 * @param {Token} token
 * @param {number | undefined} step
 * @param {boolean} settles whether it was masked until now
 */
function paint(cell, [text, state, confidence], step, settles) {
  const [label, corner] = cell.children;
  cell.className = `crystal ${state}${settles && state === "unmasked" ? " fresh" : ""}${
    state === "unmasked" && text === "" ? " void" : ""
  }`;
  label.textContent = state === "masked" ? "" : text === "" ? "∅" : visible(text);
  corner.textContent = state === "unmasked" && step !== undefined ? String(step) : "";
  if (state === "masked") cell.dataset.noise = noise(3);
  else delete cell.dataset.noise;
  if (state === "unmasked") cell.dataset.heat = String(heatOf(confidence));
  else delete cell.dataset.heat;
}
