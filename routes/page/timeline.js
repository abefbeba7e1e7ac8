// @ts-check
/** The timeline: what each step accepted, as bars, and a scrubber that replays the trajectory. */
import { heatOf } from "./cells.js";
import { byId, control } from "./dom.js";

const SPEEDS = [1, 0.5, 0.25];
const MOST_BAR_PX = 14;
/** As wide as page.css makes it. */
const THUMB_PX = 3;

/** @typedef {import("./trajectory.js").Trajectory} Trajectory */

export class Timeline {
  #canvas = /** @type {HTMLCanvasElement} */ (byId("bars"));
  #scrub = control("scrub");
  #play = control("play");
  #speedButton = byId("speed");
  /** @type {Trajectory | undefined} */
  #trajectory;
  #speed = 1;
  #playing = false;
  /** Of the base line, then of each heat. @type {string[]} */
  #colours = [];
  #onSeek;

  /** @param {(index: number) => void} onSeek called with the moment to show */
  constructor(onSeek) {
    this.#onSeek = onSeek;
    this.#scrub.addEventListener("input", () => {
      this.#stop();
      this.#seek(this.#scrub.valueAsNumber);
    });
    this.#play.addEventListener("click", () => this.#playing ? this.#stop() : this.#start());
    this.#speedButton.addEventListener("click", () => {
      this.#speed = SPEEDS[(SPEEDS.indexOf(this.#speed) + 1) % SPEEDS.length];
      this.#speedButton.textContent = { 1: "1×", 0.5: "½×", 0.25: "¼×" }[this.#speed] ?? "";
      this.#speedButton.ariaLabel = `Replay speed ${this.#speed}`;
    });
    const repaint = () => {
      this.#readColours();
      this.#draw();
    };
    this.#readColours();
    new MutationObserver(repaint).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
  }

  get playing() {
    return this.#playing;
  }

  /** Shows a trajectory that still grows: nothing to scrub yet. @param {Trajectory} trajectory */
  follow(trajectory) {
    this.#stop();
    this.#trajectory = trajectory;
    this.#scrub.disabled = this.#play.disabled = true;
    this.update();
  }

  /** Draws what has been added. */
  update() {
    const last = Math.max(0, (this.#trajectory?.moments.length ?? 0) - 1);
    this.#scrub.max = String(last); // first: a value beyond it is cut
    this.#scrub.value = String(last);
    this.#draw();
  }

  /** The trajectory is complete: it may be replayed. */
  finish() {
    this.update();
    const empty = (this.#trajectory?.moments.length ?? 0) === 0;
    this.#scrub.disabled = this.#play.disabled = empty;
    this.#describe();
  }

  /** @param {number} index */
  #seek(index) {
    this.#scrub.value = String(index);
    this.#describe();
    this.#draw();
    this.#onSeek(index);
  }

  #describe() {
    const moments = this.#trajectory?.moments ?? [];
    const moment = moments[this.#scrub.valueAsNumber];
    if (moment === undefined) return;
    const { block, step } = moment;
    const place = `${this.#scrub.valueAsNumber + 1} of ${moments.length}`;
    this.#scrub.setAttribute("aria-valuetext", `frame ${place}: block ${block}, step ${step}`);
  }

  #start() {
    const moments = this.#trajectory?.moments ?? [];
    if (moments.length === 0) return;
    this.#setPlaying(true);
    let index = this.#scrub.valueAsNumber >= moments.length - 1 ? 0 : this.#scrub.valueAsNumber;
    let clock = moments[index].at;
    let before = performance.now();
    this.#seek(index);
    /** @param {number} now */
    const tick = (now) => {
      if (!this.#playing) return;
      clock += Math.min(100, Math.max(0, now - before)) * this.#speed; // a hidden tab does not skip
      before = now;
      const shown = index;
      while (index + 1 < moments.length && moments[index + 1].at <= clock) index++;
      if (index !== shown) this.#seek(index);
      if (index === moments.length - 1) this.#stop();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  #stop() {
    this.#setPlaying(false);
  }

  /** @param {boolean} playing */
  #setPlaying(playing) {
    this.#playing = playing;
    this.#play.classList.toggle("playing", playing);
    this.#play.ariaLabel = playing ? "Pause the trajectory" : "Play the trajectory";
  }

  /** A canvas knows no custom properties; the legend wears the same colours. */
  #readColours() {
    const heats = [...document.querySelectorAll(".scale [data-heat]")];
    this.#colours = [this.#canvas, ...heats].map((element) => getComputedStyle(element).color);
  }

  /** One bar per frame: as high as the tokens it accepted, in the colour of their confidence. */
  #draw() {
    const canvas = this.#canvas;
    const { clientWidth, clientHeight } = canvas;
    const context = canvas.getContext("2d");
    if (context === null || clientWidth === 0) return;
    const ratio = devicePixelRatio;
    const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.clearRect(0, 0, width, height);
    const moments = this.#trajectory?.moments ?? [];
    const [baseline, ...colours] = this.#colours;
    const most = Math.max(4, ...moments.map(({ accepted }) => accepted));
    // While there are few frames, bars are no wider than this, so that the drawing does not stretch.
    const pitch = Math.min(width / Math.max(1, moments.length), MOST_BAR_PX * ratio);
    const shown = this.#scrub.valueAsNumber;
    context.fillStyle = baseline;
    context.fillRect(0, height - ratio, width, ratio);
    moments.forEach(({ accepted, confidence, done }, i) => {
      const x = i * pitch;
      const bar = Math.max(ratio, (accepted / most) * (height - 6 * ratio));
      const gap = pitch > 3 * ratio ? ratio : 0;
      context.globalAlpha = i <= shown ? 1 : 0.3;
      context.fillStyle = colours[heatOf(confidence)];
      context.fillRect(x, height - bar, Math.max(ratio, pitch - gap), bar);
      if (done && gap > 0) {
        context.globalAlpha = 1;
        context.fillStyle = baseline;
        context.fillRect(x + pitch - gap, 0, gap, height);
      }
    });
    // The scrubber's thumb runs from the middle of the first bar to the middle of the last.
    this.#scrub.style.left = `${pitch / ratio / 2 - THUMB_PX / 2}px`;
    this.#scrub.style.width = `${(moments.length - 1) * pitch / ratio + THUMB_PX}px`;
    context.globalAlpha = 1;
  }
}
