/** A hub on real ports: the addresses that the hub package and convert ask, and a second host that large files come from. */
import { createHash } from "node:crypto";
import { downloadCheckpoint, type DownloadOptions } from "../../src/convert/hub.ts";
import { writeCheckpoint } from "./checkpoint.ts";

/** One request, as the hub saw it. */
export interface HubRequest {
  readonly host: "hub" | "cdn";
  /** `revision`, `tree`, `resolve`; `file` where bytes are sent. */
  readonly kind: string;
  /** The file's name, or else the path. */
  readonly name: string;
  readonly range: string | null;
  readonly authorization: string | null;
}

/** What a test changes about the hub. */
export interface FakeHubOptions {
  /** A token without which files (`files`) or everything (`all`) is refused. */
  readonly needs?: { readonly token: string; readonly what: "files" | "all" };
  /** Entries of a page of the listing (default 3, so that every repository has several). */
  readonly pageSize?: number;
  /** Further pages of the listing are on the other host. */
  readonly pagesElsewhere?: boolean;
  /** May answer a request instead of the hub; `nth` counts from 1 for the same kind and name. */
  readonly answer?: (
    request: HubRequest & { readonly nth: number; readonly bytes: Uint8Array<ArrayBuffer> },
  ) => Response | undefined | Promise<Response | undefined>;
}

/** A running hub with one repository, `acme/tiny`. */
export interface FakeHub extends AsyncDisposable {
  readonly url: string;
  /** `127.0.0.1:port`, as messages name it. */
  readonly host: string;
  readonly requests: HubRequest[];
  /** The commit that `main` stands for. */
  readonly commit: string;
  /** Makes a new commit of `main`. */
  push(files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>): void;
  /** Ends it, so that its port is closed. */
  close(): Promise<void>;
}

/** Files this large, and tokenizers, are kept in LFS. */
const LFS_BYTES = 20_000;

const hex = (algorithm: string, ...parts: (string | Uint8Array)[]) => {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

/** The content of a folder, by names. */
async function filesOf(folder: string): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const files = new Map<string, Uint8Array<ArrayBuffer>>();
  for await (const { name } of Deno.readDir(folder)) {
    files.set(name, await Deno.readFile(`${folder}/${name}`));
  }
  return files;
}

/** Sends `bytes`, or the part that the request names. */
export function sendFile(bytes: Uint8Array<ArrayBuffer>, range: string | null): Response {
  const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  const etag = `"${hex("sha256", bytes).slice(0, 16)}"`;
  if (range === null) return new Response(bytes, { headers: { etag } });
  if (from >= bytes.length) return new Response(null, { status: 416 });
  return new Response(bytes.subarray(from), {
    status: 206,
    headers: { etag, "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` },
  });
}

/** Sends the first `count` bytes; then waits for `end` and breaks the connection. */
export function sendStart(
  bytes: Uint8Array<ArrayBuffer>,
  count: number,
  end: Promise<unknown>,
): Response {
  return new Response(
    new ReadableStream({
      start: (controller) => controller.enqueue(bytes.slice(0, count)),
      async pull(controller) {
        await end;
        controller.close(); // fewer bytes than promised: the server breaks the connection
      },
    }),
    { headers: { "content-length": `${bytes.length}` } },
  );
}

/** Serves `files` as the repository `acme/tiny`. */
export function openHub(
  files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>,
  options: FakeHubOptions = {},
): FakeHub {
  const { needs, pageSize = 3, pagesElsewhere = false, answer } = options;
  const requests: HubRequest[] = [];
  const commits = new Map<string, ReadonlyMap<string, Uint8Array<ArrayBuffer>>>();
  const counts = new Map<string, number>();
  let main = "";
  const push = (files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>) => {
    main = hex("sha1", `${commits.size}`);
    commits.set(main, files);
  };
  push(files);

  const refuse = (status: number, code: string) =>
    Response.json({ error: code }, { status, headers: { "x-error-code": code } });
  const isLfs = (name: string, bytes: Uint8Array) =>
    name === "tokenizer.json" || bytes.length > LFS_BYTES;
  const entry = (name: string, bytes: Uint8Array) => {
    const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${
      hex("sha256", bytes)
    }`;
    const content = isLfs(name, bytes) ? new TextEncoder().encode(pointer) : bytes;
    return {
      type: "file",
      oid: hex("sha1", `blob ${content.length}\0`, content),
      size: bytes.length,
      path: name,
      ...(isLfs(name, bytes)
        ? { lfs: { oid: hex("sha256", bytes), size: bytes.length, pointerSize: content.length } }
        : {}),
    };
  };

  const tree = (url: URL, files: ReadonlyMap<string, Uint8Array>) => {
    const folder = { type: "directory", oid: "0".repeat(40), size: 0, path: "original" };
    const entries = [folder, ...[...files].map(([name, bytes]) => entry(name, bytes))];
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const next = new URL(url);
    next.searchParams.set("cursor", `${from + pageSize}`);
    if (pagesElsewhere) next.port = `${cdn.addr.port}`;
    const link = from + pageSize < entries.length ? { link: `<${next}>; rel="next"` } : undefined;
    return Response.json(entries.slice(from, from + pageSize), { headers: link });
  };

  const handle = async (host: "hub" | "cdn", request: Request): Promise<Response> => {
    const url = new URL(request.url);
    const parts =
      /^(?:\/api)?(?:\/models)?\/([^/]+\/[^/]+)\/(revision|tree|resolve|file)\/([^/]+)(?:\/(.+))?$/
        .exec(decodeURIComponent(url.pathname));
    if (parts === null) return refuse(404, "RepoNotFound");
    const [, repo, kind, revision, name = url.pathname] = parts;
    const seen: HubRequest = {
      host,
      kind,
      name,
      range: request.headers.get("range"),
      authorization: request.headers.get("authorization"),
    };
    requests.push(seen);
    const nth = (counts.get(`${kind} ${name}`) ?? 0) + 1;
    counts.set(`${kind} ${name}`, nth);
    const commit = revision === "main" ? main : revision;
    const bytes = commits.get(commit)?.get(name) ?? new Uint8Array();
    const instead = await answer?.({ ...seen, nth, bytes });
    if (instead !== undefined) return instead;

    const isKnown = needs === undefined || seen.authorization === `Bearer ${needs.token}`;
    // as the real one: who may not know gets the same answer for what is private and for what does not exist
    if (repo !== "acme/tiny") return refuse(seen.authorization ? 404 : 401, "RepoNotFound");
    if (host === "hub" && !isKnown && (needs.what === "all" || kind === "resolve")) {
      return refuse(needs.what === "all" ? 401 : 403, "GatedRepo");
    }
    const files = commits.get(commit);
    if (files === undefined) return refuse(404, "RevisionNotFound");
    if (kind === "revision") {
      const lastModified = "2026-01-01T00:00:00.000Z";
      return Response.json({ _id: "1", id: repo, sha: commit, lastModified, private: false });
    }
    if (kind === "tree") return tree(url, files);
    if (!files.has(name)) return refuse(404, "EntryNotFound");
    if (kind === "file") return sendFile(bytes, seen.range);
    const path = `/${repo}/file/${commit}/${name}`;
    return isLfs(name, bytes)
      ? new Response(null, {
        status: 302,
        headers: { location: `http://127.0.0.1:${cdn.addr.port}${path}?Signature=secret` },
      })
      : new Response(null, { status: 307, headers: { location: `/api/models${path}` } });
  };

  const quiet = { port: 0, hostname: "127.0.0.1", onListen() {} };
  const hub = Deno.serve(quiet, (request) => handle("hub", request));
  const cdn = Deno.serve(quiet, (request) => handle("cdn", request));
  let closing: Promise<unknown> | undefined;
  const close = async () => void await (closing ??= Promise.all([hub.shutdown(), cdn.shutdown()]));
  return {
    url: `http://127.0.0.1:${hub.addr.port}`,
    host: `127.0.0.1:${hub.addr.port}`,
    requests,
    get commit() {
      return main;
    },
    push,
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** A folder for a test, a checkpoint in it, and a hub that has that checkpoint and files that convert does not need. */
export async function withHub(
  options: FakeHubOptions & { readonly shards?: number },
  body: (test: {
    readonly hub: FakeHub;
    readonly folder: string;
    readonly files: Map<string, Uint8Array<ArrayBuffer>>;
    /** Downloads `main` into the folder's cache. */
    readonly download: (options?: Partial<DownloadOptions>) => Promise<string>;
    /** Where the files of the hub's present commit are, or will be. */
    readonly cached: () => string;
  }) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await writeCheckpoint(`${folder}/source`, { shards: options.shards ?? 1 });
    const files = await filesOf(`${folder}/source`);
    files.set("README.md", new TextEncoder().encode("# Tiny"));
    files.set("pytorch_model.bin", new Uint8Array(30_000));
    files.set("chat_template.jinja", new TextEncoder().encode("{{ messages }}"));
    await using hub = openHub(files, options);
    const download = (options: Partial<DownloadOptions> = {}) =>
      downloadCheckpoint({ repo: "acme/tiny", revision: "main" }, {
        cacheDir: `${folder}/cache`,
        endpoint: hub.url,
        backoffMs: 1,
        ...options,
      });
    const host = encodeURIComponent(hub.host);
    const cached = () => `${folder}/cache/hub/${host}/acme/tiny/${hub.commit}`;
    await body({ hub, folder, files, download, cached });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
