// @ts-check
/** The few things that every module asks of the document. */

/**
 * The element with an id. The page cannot work without it, so its absence is an error.
 *
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * The form control with an id.
 *
 * @param {string} id
 * @returns {HTMLInputElement}
 */
export function control(id) {
  return /** @type {HTMLInputElement} */ (byId(id)); // ids are ours: index.html
}

/**
 * A new element. Text goes in as text, whatever it looks like.
 *
 * @param {string} tag
 * @param {string} [className]
 * @param {string} [text]
 * @returns {HTMLElement}
 */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}

/**
 * Turns a button on or off. It stays focusable, so that the keyboard is not thrown off it.
 *
 * @param {HTMLElement} button
 * @param {boolean} on
 */
export function enable(button, on) {
  button.setAttribute("aria-disabled", String(!on));
}

/** @param {HTMLElement} button */
export function enabled(button) {
  return button.getAttribute("aria-disabled") !== "true";
}

/** Whether the reader asked for less motion. */
export const stillness = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Copies a text; also where the page is not served over HTTPS and has no clipboard API.
 *
 * @param {string} text
 */
async function copy(text) {
  if (navigator.clipboard !== undefined) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const focused = document.activeElement;
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", "unseen"));
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  if (!done) throw new Error("the browser does not let this page copy");
}

/**
 * Makes a button copy a text, and say so.
 *
 * @param {HTMLElement} button
 * @param {() => string} text
 */
export function copyButton(button, text) {
  const label = button.textContent;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  button.addEventListener("click", async () => {
    if (!enabled(button)) return;
    clearTimeout(timer);
    try {
      await copy(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    timer = setTimeout(() => button.textContent = label, 1500);
  });
}
