/** What an embedder may set of the app, with the only defaults. */

/** Options of `createApp`. */
export interface AppOptions {
  /** Origins of other sites whose pages may call this server, `"*"` for all. None unless set. */
  readonly cors?: readonly string[];
  /** Largest request body, and largest message on a socket, in bytes. */
  readonly maxRequestBytes?: number;
  /** Generations that one socket may run at once. */
  readonly generationsPerSocket?: number;
  /** No further frame is made for a socket while this many bytes wait to be sent. */
  readonly socketBufferBytes?: number;
  /** Seconds after which a socket that answers no ping is closed. */
  readonly idleTimeout?: number;
  /** Folder of the page at `/`, with a slash at the end; our own page unless set. */
  readonly page?: URL;
  /** Aborted when the server stops: what runs may finish, what is new is refused. */
  readonly stopping?: AbortSignal;
  /** Holds the open sockets, for a server that waits until they are closed. */
  readonly sockets?: Set<WebSocket>;
  /** Hears of every failure that is not a caller's fault; the console, unless set. */
  readonly onFault?: (error: unknown) => void;
}

/** Options with every default filled in. */
export type ResolvedAppOptions = Required<AppOptions>;

export function resolveAppOptions(options: AppOptions): ResolvedAppOptions {
  return {
    cors: options.cors ?? [],
    maxRequestBytes: options.maxRequestBytes ?? 1 << 20,
    generationsPerSocket: options.generationsPerSocket ?? 16,
    socketBufferBytes: options.socketBufferBytes ?? 1 << 20,
    idleTimeout: options.idleTimeout ?? 30,
    page: options.page ?? new URL("./page/", import.meta.url),
    stopping: options.stopping ?? new AbortController().signal,
    sockets: options.sockets ?? new Set(),
    onFault: options.onFault ?? ((error) => console.error(error)),
  };
}
