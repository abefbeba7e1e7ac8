// @ts-check
/** Whether the server is there, what to do while it is not, and which model it runs. */
import { base } from "./connection.js";
import { byId, make } from "./dom.js";

/** @typedef {import("./connection.js").ConnectionState} ConnectionState */

export class ServerStatus {
  #pill = byId("connection");
  #banner = byId("banner");
  #retryIn = byId("retry-in");
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #countdown;

  /** @param {ConnectionState} state */
  show(state) {
    clearInterval(this.#countdown);
    switch (state.type) {
      case "connecting":
        if (this.#banner.hidden) this.#label("connecting", "connecting");
        else this.#retryIn.textContent = "Trying…";
        return;
      case "open":
        this.#label("open", "connected");
        this.#banner.hidden = true;
        return;
      case "away": {
        this.#label("away", "server away");
        // Set only when it differs: this line is read aloud.
        const text = state.answersHttp
          ? "The server answers, but no WebSocket opens. Something between may not let them pass."
          : "The server is away.";
        const line = byId("banner-text");
        if (this.#banner.hidden || line.textContent !== text) line.textContent = text;
        this.#banner.hidden = false;
        const tell = () => {
          const seconds = Math.max(0, Math.ceil((state.retryAt - performance.now()) / 1000));
          this.#retryIn.textContent = `Next try in ${seconds} s.`;
        };
        tell();
        this.#countdown = setInterval(tell, 500);
      }
    }
  }

  /** @param {any} model */
  showModel(model) {
    const facts = [model.dtype, model.device, `${model.context_length} tokens of context`];
    byId("facts").replaceChildren(
      make("b", "", model.id),
      ...facts.map((fact) => make("span", "", fact)),
    );
  }

  /**
   * @param {string} state
   * @param {string} text
   */
  #label(state, text) {
    if (this.#pill.dataset.state === state && this.#pill.textContent === text) return;
    this.#pill.dataset.state = state;
    this.#pill.textContent = text;
  }
}

/** The facts of the model that the server runs. */
export async function fetchModel() {
  const response = await fetch(new URL("v1/models", base()));
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()).data[0];
}
