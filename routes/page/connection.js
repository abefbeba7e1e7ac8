// @ts-check
/** One WebSocket to the server that is opened again whenever it is lost. */

const FIRST_DELAY_MS = 500, LONGEST_DELAY_MS = 10_000;

/**
 * @typedef {{ readonly type: "connecting" } | { readonly type: "open" }
 *   | { readonly type: "away", readonly retryAt: number, readonly answersHttp: boolean }} ConnectionState
 */

/** The page's own folder, also where the app is mounted below a prefix. */
export const base = () => {
  const url = new URL(".", document.baseURI);
  url.search = url.hash = "";
  return url;
};

/**
 * @param {{ onState: (state: ConnectionState) => void, onFrame: (frame: any) => void }} listeners
 */
export function connect({ onState, onFrame }) {
  const url = new URL("v1/stream", base());
  url.protocol = url.protocol.replace("http", "ws");
  /** @type {WebSocket | undefined} */
  let socket;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let failures = 0;

  function open() {
    clearTimeout(timer);
    onState({ type: "connecting" });
    const opened = socket = new WebSocket(url);
    opened.onopen = () => {
      failures = 0;
      onState({ type: "open" });
    };
    opened.onmessage = ({ data }) => onFrame(JSON.parse(data));
    opened.onclose = async () => {
      if (socket !== opened) return;
      socket = undefined;
      const delay = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** failures++);
      const wait = delay * (0.75 + Math.random() / 2); // not all pages at once
      const retryAt = performance.now() + wait;
      timer = setTimeout(open, wait);
      onState({ type: "away", retryAt, answersHttp: false });
      // A proxy that passes HTTP and not WebSockets is worth a message of its own.
      if (failures > 1 && await answersHttp() && socket === undefined) {
        onState({ type: "away", retryAt, answersHttp: true });
      }
    };
  }

  const retry = () => {
    if (socket === undefined) open();
  };
  addEventListener("online", retry);
  addEventListener("pageshow", retry);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) retry();
  });
  open();

  return {
    /** Opens now what would be opened later. */
    retry,
    /**
     * @param {object} message
     * @returns {boolean} whether it could be sent
     */
    send(message) {
      if (socket?.readyState !== WebSocket.OPEN) return false;
      socket.send(JSON.stringify(message));
      return true;
    },
  };
}

async function answersHttp() {
  try {
    const response = await fetch(new URL("healthz", base()), { signal: AbortSignal.timeout(3000) });
    return response.ok;
  } catch {
    return false; // that is the answer
  }
}
