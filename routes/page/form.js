// @ts-check
/** The prompt and its settings: what is asked, what was wrong with it, and how to share it. Only the server judges values. */
import { byId, control, enable, make } from "./dom.js";

/** The control that belongs to each unmasking strategy. */
const RULES = /** @type {Record<string, string>} */ ({
  low_confidence_dynamic: "confidence_threshold",
  threshold: "confidence_threshold",
  low_confidence_static: "denoising_steps",
  entropy: "denoising_steps",
  margin: "denoising_steps",
  sequential: "denoising_steps",
  entropy_bounded: "entropy_bound",
});
const NAMES = [
  "prompt",
  "suffix",
  "unmasking",
  "confidence_threshold",
  "entropy_bound",
  "denoising_steps",
  "temperature",
  "block_length",
  "max_tokens",
  "seed",
];
/** Offered for a model that was trained with no block length. */
const ANY_LENGTHS = [8, 16, 32, 64];
/** The block length of a model whose prompt and output are one block; no number is sent for it. */
const CANVAS = "canvas";
const FALLBACK_SAMPLES = ["Once upon a time", "function add(a, b) {\n"];
/** Browsers and chat programs cut longer addresses. */
const LONGEST_SHARED_PROMPT = 4000;

/** @typedef {{ prompt: string, suffix?: string, [option: string]: unknown }} Request */

export class Form {
  #prompt = control("prompt");
  #suffix = control("suffix");
  #unmasking = control("unmasking");
  #steps = control("denoising_steps");
  #infill = false;
  /** Settings of the address that are still to be applied, because the model's facts are not here yet. */
  #wanted = new URLSearchParams(location.hash.slice(1));

  /** @param {{ onGenerate: () => void, onCancel: () => void }} listeners */
  constructor({ onGenerate, onCancel }) {
    const form = byId("form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onGenerate();
    });
    byId("cancel").addEventListener("click", onCancel);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") onCancel();
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      onGenerate();
    });
    form.addEventListener("input", () => this.#refresh());
    if (/Mac|iP(hone|ad)/.test(navigator.userAgent)) byId("modifier").textContent = "⌘";
    if (matchMedia("(max-width: 899px)").matches) byId("settings").removeAttribute("open");
    addEventListener("hashchange", () => {
      this.#wanted = new URLSearchParams(location.hash.slice(1));
      this.#apply();
    });
    this.#apply();
  }

  /** @param {any} model an entry of GET v1/models */
  setModel(model) {
    this.#infill = model.infill === true;
    byId("suffix-box").hidden = !this.#infill;
    const chosen = this.#blockLength();
    this.#applyDefaults(model.defaults ?? {});
    byId("block-lengths").replaceChildren(
      ...lengthsOf(model).map((length) => {
        const label = make("label");
        const input = /** @type {HTMLInputElement} */ (make("input"));
        input.type = "radio";
        input.name = "block_length";
        input.value = String(length);
        input.checked = String(length) === (chosen ?? String(model.block_length));
        label.append(input, make("span", "", String(length)));
        return label;
      }),
    );
    const samples = model.sample_prompts?.length > 0 ? model.sample_prompts : FALLBACK_SAMPLES;
    byId("samples").replaceChildren(
      ...samples.slice(0, 3).map((/** @type {string} */ sample) => {
        const chip = make("button", "chip", titleOf(sample));
        chip.setAttribute("type", "button");
        chip.title = sample;
        chip.addEventListener("click", () => {
          this.#prompt.value = sample;
          this.clearErrors();
          this.#prompt.focus();
        });
        return chip;
      }),
    );
    this.#apply();
    if (this.#prompt.value === "") this.#prompt.value = samples[0];
  }

  /**
   * The request that the form says; a seed is chosen where none is given, so that it can be told.
   *
   * @returns {Request}
   */
  read() {
    const rule = RULES[this.#unmasking.value];
    const seed = control("seed").value.trim();
    const most = control("max_tokens").value.trim();
    const length = this.#blockLength();
    return {
      prompt: this.#prompt.value,
      ...this.#infill && this.#suffix.value !== "" ? { suffix: this.#suffix.value } : {},
      unmasking: this.#unmasking.value,
      [rule]: control(rule).valueAsNumber,
      temperature: control("temperature").valueAsNumber,
      ...length === undefined || length === CANVAS ? {} : { block_length: Number(length) },
      ...most === "" ? {} : { max_tokens: numberOrText(most) },
      seed: seed === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : numberOrText(seed),
    };
  }

  /** The address of this page with the form's state in it. */
  link() {
    const asked = this.read();
    if (control("seed").value.trim() === "") delete asked.seed;
    const url = new URL(location.href);
    url.hash = new URLSearchParams(
      Object.entries(asked).map(([name, value]) => [name, String(value)]),
    ).toString();
    return url;
  }

  /** Puts the form's state into the address, where it is not too long for one. */
  remember() {
    if (this.#prompt.value.length + this.#suffix.value.length > LONGEST_SHARED_PROMPT) return;
    history.replaceState(null, "", this.link());
  }

  /** Offers to keep the seed of a request, where it was chosen here and mattered. @param {Request} [asked] */
  offerSeed(asked) {
    const button = byId("keep-seed");
    button.hidden = asked === undefined || control("seed").value !== "" || asked.temperature === 0;
    if (asked === undefined) return;
    button.textContent = `Keep seed ${asked.seed}`;
    button.onclick = () => {
      control("seed").value = String(asked.seed);
      button.hidden = true;
      control("seed").focus();
    };
  }

  /** @param {boolean} busy */
  setBusy(busy) {
    enable(byId("generate"), !busy);
    enable(byId("cancel"), busy);
  }

  clearErrors() {
    for (const name of NAMES) {
      const line = byId(`${name}-error`);
      if (line.hidden) continue;
      line.hidden = true;
      byId(name).removeAttribute("aria-invalid");
    }
    byId("alert").hidden = true;
  }

  /**
   * Says what was wrong, at the field at fault where there is one.
   *
   * @param {string} message
   * @param {string} [param]
   */
  showError(message, param) {
    if (param === undefined || !NAMES.includes(param)) {
      byId("alert").textContent = message;
      byId("alert").hidden = false;
      return;
    }
    const line = byId(`${param}-error`);
    line.textContent = message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;
    line.hidden = false;
    const field = byId(param);
    field.setAttribute("aria-invalid", "true");
    field.closest("details")?.setAttribute("open", "");
    const focusable = field.querySelector("input:checked") ?? field;
    if (focusable instanceof HTMLElement) focusable.focus();
    line.scrollIntoView({ block: "nearest" });
  }

  /** @returns {string | undefined} */
  #blockLength() {
    const checked = document.querySelector("input[name=block_length]:checked");
    return checked instanceof HTMLInputElement ? checked.value : undefined;
  }

  /** How the model is decoded unless the user says otherwise. @param {Record<string, unknown>} defaults */
  #applyDefaults(defaults) {
    const { unmasking, confidence_threshold: threshold, temperature } = defaults;
    if (typeof unmasking === "string" && Object.hasOwn(RULES, unmasking)) {
      this.#unmasking.value = unmasking;
    }
    if (typeof threshold === "number") control("confidence_threshold").value = String(threshold);
    if (typeof temperature === "number") control("temperature").value = String(temperature);
  }

  /** Applies what the address wants and what can be applied already. */
  #apply() {
    for (const [name, value] of this.#wanted) {
      if (name === "block_length") {
        const radios = document.querySelectorAll("input[name=block_length]");
        for (const radio of radios) {
          if (radio instanceof HTMLInputElement) radio.checked = radio.value === value;
        }
      } else if (name === "unmasking" ? Object.hasOwn(RULES, value) : NAMES.includes(name)) {
        // The block length that bounds it may come later; a value at the bound would follow it.
        if (name === "denoising_steps") this.#steps.max = String(Number(value) + 1);
        control(name).value = value;
      }
    }
    if (this.#suffix.value !== "") byId("suffix-box").setAttribute("open", "");
    if (byId("block-lengths").childElementCount > 0) this.#wanted = new URLSearchParams();
    this.#refresh();
  }

  /** Brings everything that follows from the controls up to date. */
  #refresh() {
    const rule = RULES[this.#unmasking.value];
    for (const field of document.querySelectorAll("[data-rule]")) {
      if (field instanceof HTMLElement) field.hidden = field.dataset.rule !== rule;
    }
    byId("unmasking-name").textContent = this.#unmasking.value;
    const chosen = this.#blockLength();
    const length = chosen === CANVAS ? control("max_tokens").value.trim() : chosen;
    if (length !== undefined && Number(length) > 0 && this.#steps.max !== length) {
      const all = this.#steps.value === this.#steps.max;
      this.#steps.max = length;
      if (all) this.#steps.value = length;
    }
    for (const output of document.querySelectorAll("output")) {
      const input = control(output.htmlFor.value);
      const { value, step, min, max } = input;
      const filled = (Number(value) - Number(min)) / (Number(max) - Number(min));
      input.style.setProperty("--filled", `${filled * 100}%`);
      output.value = Number(value).toFixed(step.split(".")[1]?.length ?? 0);
    }
  }
}

/** The block lengths to choose from. @param {any} model @returns {(number | string)[]} */
function lengthsOf({ block_length: usual, block_lengths: trained }) {
  if (trained) return trained;
  const numbers = usual === CANVAS ? ANY_LENGTHS : [...new Set([...ANY_LENGTHS, usual])];
  return [...numbers.sort((a, b) => a - b), ...usual === CANVAS ? [CANVAS] : []];
}

/** @param {string} text */
function numberOrText(text) {
  return Number.isNaN(Number(text)) ? text : Number(text); // the server says what is wrong with a text
}

/** What a sample is called: its last line with words in it. @param {string} sample */
function titleOf(sample) {
  const lines = sample.split("\n").map((line) => line.trim()).filter((line) => /\w/.test(line));
  const line = lines.at(-1) ?? sample;
  return line.length > 34 ? `${line.slice(0, 33)}…` : line;
}

/**
 * A shell line that asks the same over HTTP.
 *
 * @param {URL} url
 * @param {object} request
 */
export function curlLine(url, request) {
  const body = JSON.stringify(request).replaceAll("'", "'\\''");
  return `curl ${url} -H 'content-type: application/json' -d '${body}'`;
}
