// @ts-check
/** The output: one trajectory in two views, the timeline below them, and the facts of the token one points at. */
import { byId, copyButton, enable } from "./dom.js";
import { startIdle } from "./idle.js";
import { LatticeView } from "./lattice_view.js";
import { shimmer } from "./noise.js";
import { TextView } from "./text_view.js";
import { Timeline } from "./timeline.js";
import { Tip } from "./tip.js";

/** @typedef {import("./trajectory.js").Trajectory} Trajectory */

export class Output {
  #stage = byId("stage");
  #scroller = byId("scroller");
  #views = {
    text: { root: byId("text"), view: new TextView(byId("text")) },
    lattice: { root: byId("lattice"), view: new LatticeView(byId("lattice")) },
  };
  /** @type {"text" | "lattice"} */
  #current = "text";
  /** @type {Trajectory | undefined} */
  #trajectory;
  #live = false;
  /** Moment that the reader looks at; undefined: the newest. @type {number | undefined} */
  #sought;
  #asked = false;
  #timeline = new Timeline((index) => {
    this.#sought = index;
    this.#ask();
  });
  #tip = new Tip(this.#scroller, (target) => {
    const blocks = this.#blocks();
    const place = this.#views[this.#current].view.locate(target);
    if (this.#trajectory === undefined || place === undefined) return;
    const [block, position] = place;
    const token = blocks[block]?.tokens[position];
    return token && { trajectory: this.#trajectory, block, position, token };
  });
  #onRender;

  /** @param {(trajectory: Trajectory) => void} onRender called with what is live when it is painted */
  constructor(onRender) {
    this.#onRender = onRender;
    for (const radio of document.querySelectorAll("input[name=view]")) {
      radio.addEventListener("change", () => {
        if (!(radio instanceof HTMLInputElement) || !radio.checked) return;
        this.#current = radio.value === "lattice" ? "lattice" : "text";
        this.#select();
      });
    }
    copyButton(byId("copy-text"), () => this.#trajectory?.text ?? "");
    startIdle(byId("idle"));
    shimmer(this.#stage, () => this.#live || this.#timeline.playing);
  }

  /** Shows a trajectory that grows, from now on. @param {Trajectory} trajectory */
  follow(trajectory) {
    this.#trajectory = trajectory;
    this.#sought = undefined;
    this.#setLive(true);
    byId("idle").hidden = true;
    for (const { view } of Object.values(this.#views)) view.reset(trajectory);
    this.#timeline.follow(trajectory);
    this.#select();
  }

  /** The trajectory has grown. */
  update() {
    this.#ask();
  }

  /** The trajectory grows no more. */
  finish() {
    this.#setLive(false);
    this.#timeline.finish();
    this.#ask();
  }

  #blocks() {
    if (this.#trajectory === undefined) return [];
    return this.#sought === undefined ? this.#trajectory.blocks : this.#trajectory.at(this.#sought);
  }

  /** @param {boolean} live */
  #setLive(live) {
    this.#live = live;
    this.#stage.classList.toggle("live", live);
    byId("mark").classList.toggle("live", live);
    this.#scroller.ariaBusy = String(live);
  }

  /** Renders before the next paint, once, however many frames arrive until then. */
  #ask() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#render();
    });
  }

  #render() {
    const trajectory = this.#trajectory, scroller = this.#scroller;
    if (trajectory === undefined) return;
    const atEnd = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 24;
    this.#views[this.#current].view.render(this.#blocks());
    enable(byId("copy-text"), trajectory.text !== "");
    if (!this.#live) return;
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
    this.#holdHeight();
    this.#timeline.update();
    this.#onRender(trajectory);
  }

  /** While text settles, the output may grow but not shrink, so that nothing below it jumps. */
  #holdHeight() {
    const { style, offsetHeight } = this.#scroller;
    if (offsetHeight > (parseFloat(style.minHeight) || 0)) style.minHeight = `${offsetHeight}px`;
  }

  /** Shows the view that is chosen, and no other. */
  #select() {
    for (const [name, { root }] of Object.entries(this.#views)) {
      root.hidden = name !== this.#current || this.#trajectory === undefined;
    }
    this.#scroller.style.minHeight = "";
    this.#tip.hide();
    this.#ask();
  }
}
