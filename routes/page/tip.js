// @ts-check
/** The facts of the token under the pointer or the focus. */
import { describe } from "./cells.js";
import { byId, make } from "./dom.js";

const MARGIN_PX = 8;

/**
 * @typedef {object} Place
 * @property {import("./trajectory.js").Trajectory} trajectory
 * @property {number} block
 * @property {number} position
 * @property {import("./trajectory.js").Token} token
 */

export class Tip {
  #tip = byId("tip");
  #lookUp;

  /**
   * @param {HTMLElement} root
   * @param {(target: Element) => Place | undefined} lookUp what an element below `root` shows
   */
  constructor(root, lookUp) {
    this.#lookUp = lookUp;
    root.addEventListener("pointerover", ({ target }) => this.#show(target));
    root.addEventListener("focusin", ({ target }) => this.#show(target));
    root.addEventListener("pointerleave", () => this.hide());
    root.addEventListener("focusout", () => this.hide());
    addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
  }

  hide() {
    this.#tip.hidden = true;
  }

  /** @param {EventTarget | null} target */
  #show(target) {
    const place = target instanceof Element ? this.#lookUp(target) : undefined;
    const box = target instanceof Element ? target.getClientRects()[0] : undefined;
    if (place === undefined || box === undefined) return this.hide();
    const { trajectory, block, position, token } = place;
    const [name, facts] = describe(trajectory, block, position, token);
    const tip = this.#tip;
    tip.replaceChildren(make("b", "", name), make("span", "", facts));
    tip.hidden = false;
    const most = document.documentElement.clientWidth - tip.offsetWidth - MARGIN_PX;
    const above = box.top - tip.offsetHeight - MARGIN_PX;
    tip.style.left = `${Math.max(MARGIN_PX, Math.min(box.left, most))}px`;
    tip.style.top = `${above > MARGIN_PX ? above : box.bottom + MARGIN_PX}px`;
  }
}
