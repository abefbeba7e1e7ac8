/** Waits until a socket's send buffer has drained. */

/** How often a full buffer is looked at: WebSocket tells nobody when it drains. */
const POLL_MS = 20;

/** The part of a WebSocket that is watched. */
export interface Buffered {
  /** Bytes handed to `send` that the network has not taken. */
  readonly bufferedAmount: number;
}

/** Lets writers wait; one timer runs for all of them, and only while one waits. */
export interface Drain {
  /** Resolves once at most the limit waits to be sent, or the drain is closed. */
  drained(): Promise<void>;
  /** Lets every writer go on, now and later: the socket is gone. */
  close(): void;
}

/** @param limit bytes that may wait to be sent */
export function drainOf(socket: Buffered, limit: number): Drain {
  let waiting: (() => void)[] = [];
  let timer: ReturnType<typeof setInterval> | undefined;
  let closed = false;
  const full = () => !closed && socket.bufferedAmount > limit;
  const look = () => {
    if (full()) return;
    clearInterval(timer);
    timer = undefined;
    const resumed = waiting;
    waiting = [];
    for (const resume of resumed) resume();
  };
  return {
    drained() {
      if (!full()) return Promise.resolve();
      timer ??= setInterval(look, POLL_MS);
      return new Promise((resolve) => waiting.push(resolve));
    },
    close() {
      closed = true;
      look();
    },
  };
}
