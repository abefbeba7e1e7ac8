/** A checkpoint on a hub: the files that a conversion reads, downloaded into a cache folder per commit. */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { EngineError, messageOf } from "../errors.ts";
import { cachedCommit, isThere, recordCommit, recordFiles, sizeOf } from "./hub_cache.ts";
import { downloadFile, type HubFile, onDisk } from "./hub_file.ts";
import { openListing } from "./hub_listing.ts";
import { type HubRequests, hubRequests, isUnreachable } from "./hub_request.ts";

/** `owner/name` at a branch, a tag or a commit. */
export interface HubId {
  readonly repo: string;
  readonly revision: string;
}

/** How far a download has come; bytes of earlier runs count as done. */
export interface DownloadProgress {
  readonly file: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

/** Where from, where to, and who listens. */
export interface DownloadOptions {
  /** Folder that keeps what was downloaded; it may be deleted at any time. */
  readonly cacheDir: string | undefined;
  /** URL of the hub (default: https://huggingface.co). */
  readonly endpoint?: string | undefined;
  /** Access token, sent to the hub alone. */
  readonly token?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** Hears, in a line, what a user would wonder about: a pause, a cached commit used because the hub is away. */
  readonly onNote?: (note: string) => void;
  /** May refuse the checkpoint by the config.json in `folder`, before anything large is downloaded. */
  readonly beforeWeights?: (folder: string) => Promise<void>;
  /** Milliseconds before the first repetition of a failed request (default 500); each further one waits twice as long. */
  readonly backoffMs?: number;
  /** Milliseconds without a byte after which a connection counts as broken (default 30,000). */
  readonly stallMs?: number;
}

const HUGGING_FACE = "https://huggingface.co";
const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";
/** Small, and all that is needed to know whether the model is supported and which other files there are. */
const FIRST = ["config.json", INDEX];
const OTHERS = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
];

/** Reads `owner/name` or `owner/name@revision`; undefined if it is neither. */
export function parseHubId(text: string): HubId | undefined {
  const match = /^(\w[\w.-]*\/\w[\w.-]*)(?:@(\S+))?$/.exec(text);
  return match === null ? undefined : { repo: match[1], revision: match[2] ?? "main" };
}

/**
 * Downloads what a conversion reads of a checkpoint on a hub, and resolves to the folder that holds it:
 * `cacheDir`/hub/HOST/OWNER/NAME/COMMIT.
 *
 * Every file is checked against the hash in the hub's listing. A later run goes on where this one stopped, and asks for no
 * finished file again.
 *
 * @throws {EngineError} `checkpoint_unavailable`, naming the host and the repository, or the file; `checkpoint_unsupported`
 * where the repository lacks a file; `cancelled`
 */
export async function downloadCheckpoint(id: HubId, options: DownloadOptions): Promise<string> {
  const { token, signal, onNote = () => {} } = options;
  const endpoint = parseEndpoint(options.endpoint ?? HUGGING_FACE);
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) { // fetch would print it in its error
    throw new EngineError(
      "invalid_request",
      "the access token (HF_TOKEN) is not one word of ASCII",
      {
        param: "token",
      },
    );
  }
  if (options.cacheDir === undefined) {
    throw new EngineError("invalid_request", "no folder for downloads: --cache DIR names one", {
      param: "cacheDir",
    });
  }
  const { host } = new URL(endpoint);
  const job: Job = {
    ...id,
    options,
    endpoint,
    onNote,
    folder: join(options.cacheDir, "hub", encodeURIComponent(host), ...id.repo.split("/")),
    requests: hubRequests({
      endpoint,
      repo: id.repo,
      token,
      signal,
      onNote,
      backoffMs: options.backoffMs ?? 500,
      stallMs: options.stallMs ?? 30_000,
    }),
  };
  try {
    return join(job.folder, await chooseCommit(job));
  } catch (error) {
    if (!signal?.aborted) throw error;
    throw new EngineError(
      "cancelled",
      `the download of ${id.repo} was cancelled; what has arrived stays in ${job.folder}, and the next run goes on`,
      { cause: error },
    );
  }
}

/** One call of downloadCheckpoint(). */
interface Job extends HubId {
  readonly options: DownloadOptions;
  readonly endpoint: string;
  readonly onNote: (note: string) => void;
  /** The repository's folder in the cache. */
  readonly folder: string;
  readonly requests: HubRequests;
}

/** The commit to convert, its files in the cache. */
async function chooseCommit(job: Job): Promise<string> {
  const { repo, revision, folder, endpoint, requests, onNote } = job;
  const cached = await cachedCommit(folder, revision);
  if (cached === revision) {
    onNote(`${repo}: commit ${revision} is in the cache already`);
    return cached;
  }
  let commit: string, files: ReadonlyMap<string, HubFile>;
  try {
    const listing = await openListing(repo, { endpoint, fetch: requests.fetch });
    commit = await listing.commitOf(revision);
    if (await cachedCommit(folder, commit) === commit) {
      onNote(`${repo}: commit ${commit} is in the cache already`);
      await recordCommit(folder, { revision, commit });
      return commit;
    }
    files = await listing.files(commit);
  } catch (error) {
    if (!isUnreachable(error) || job.options.signal?.aborted) throw error;
    if (cached === undefined) {
      throw withHint(error, "a folder with the checkpoint can be given instead");
    }
    onNote(`${error.message}: taking commit ${cached} from the cache, which ${revision} was then`);
    return cached;
  }
  try {
    await fill(job, commit, files);
  } catch (error) {
    throw isUnreachable(error)
      ? withHint(error, "the next run goes on where this one stopped")
      : error;
  }
  await recordCommit(folder, { revision, commit });
  return commit;
}

/** Downloads into the folder of `commit` what is not there yet. */
async function fill(job: Job, commit: string, listing: ReadonlyMap<string, HubFile>) {
  const { repo, folder, endpoint, requests, onNote, options } = job;
  const target = join(folder, commit);
  const pick = (names: readonly string[]) =>
    names.map((name) => listing.get(name)).filter((file) => file !== undefined);
  const get = async (file: HubFile, onReceived: (bytes: number) => void = () => {}) => {
    if (await isThere(folder, commit, file)) return onReceived(file.bytes);
    await downloadFile(file, {
      url: `${endpoint}/${repo}/resolve/${commit}/${file.path}`,
      path: join(target, file.path),
      requests,
      onNote,
      onReceived,
    });
  };

  refuseIncomplete(job, listing);
  await onDisk(target, mkdir(target, { recursive: true }));
  const first = pick(FIRST);
  for (const file of first) await get(file);
  await options.beforeWeights?.(target);
  const shards = listing.has(INDEX)
    ? await readShards(join(target, INDEX), job, listing)
    : [WEIGHTS];
  const files = [...first, ...pick(OTHERS), ...pick(shards)];
  await recordFiles(target, files);

  const there = new Map(
    await Promise.all(files.map(async ({ path, bytes }) => {
      const finished = await sizeOf(join(target, path)) === bytes;
      return [path, finished ? bytes : await sizeOf(join(target, `${path}.partial`)) ?? 0] as const;
    })),
  );
  const bytesTotal = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const report = (file: string) => {
    const bytesDone = [...there.values()].reduce((sum, bytes) => sum + bytes, 0);
    options.onProgress?.({ file, bytesDone, bytesTotal });
  };
  report(files[0].path);
  for (const file of files) {
    await get(file, (bytes) => {
      there.set(file.path, bytes);
      report(file.path);
    });
  }
}

/** Says which of the files that every checkpoint needs the repository lacks. */
function refuseIncomplete({ repo, revision }: Job, listing: ReadonlyMap<string, HubFile>): void {
  const missing = ["config.json", "tokenizer.json"].filter((name) => !listing.has(name));
  if (!listing.has(WEIGHTS) && !listing.has(INDEX)) missing.push(`${WEIGHTS} (or ${INDEX})`);
  if (missing.length === 0) return;
  throw new EngineError(
    "checkpoint_unsupported",
    `${repo} at ${revision} cannot be converted, it has no ${missing.join(" and no ")}; ` +
      `it has ${[...listing.keys()].slice(0, 20).join(", ") || "no files"}`,
    { param: "source" },
  );
}

/** The names of the shards, each of them listed. */
async function readShards(index: string, { repo }: Job, listing: ReadonlyMap<string, HubFile>) {
  const broken = (fact: string) =>
    new EngineError("checkpoint_unsupported", `${INDEX} of ${repo}: ${fact}`, { param: "source" });
  let shards: string[];
  try {
    const schema = v.object({ weight_map: v.record(v.string(), v.string()) });
    const { weight_map } = v.parse(schema, JSON.parse(await readFile(index, "utf8")));
    shards = [...new Set(Object.values(weight_map))].sort();
  } catch (cause) {
    throw broken(messageOf(cause));
  }
  for (const shard of shards) {
    if (!/^\w[\w.-]*$/.test(shard)) throw broken(`${shard} is no plain file name`);
    if (!listing.has(shard)) throw broken(`the repository has no ${shard}`);
  }
  return shards;
}

function parseEndpoint(text: string): string {
  if (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)) {
    return text.replace(/\/+$/, "");
  }
  throw new EngineError(
    "invalid_request",
    `the hub (HF_ENDPOINT) must be an http(s) URL, not ${text}`,
    {
      param: "endpoint",
    },
  );
}

function withHint(error: EngineError, hint: string): EngineError {
  return new EngineError(error.code, `${error.message}; ${hint}`, {
    ...(error.param === undefined ? {} : { param: error.param }),
    cause: error,
  });
}
