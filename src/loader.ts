/** A bundle from a folder or a URL to verified bytes. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { EngineError, messageOf } from "./errors.ts";
import { type BundleFile, type Manifest, parseManifest } from "./manifest.ts";

/** A model's facts and bytes, every file checked against its hash. */
export interface Bundle {
  readonly manifest: Manifest;
  readonly weights: Uint8Array;
  readonly tokenizerJson: unknown;
  readonly tokenizerConfig: unknown;
  /** Where it came from. */
  readonly url: string;
}

/** How far one file has come, in bytes. */
export interface LoadProgress {
  readonly file: string;
  readonly received: number;
  readonly total: number;
}

/** How a bundle is loaded. */
export interface LoadOptions {
  /** Folder that keeps downloaded files, by hash. Local bundles are never copied. */
  readonly cacheDir?: string;
  readonly onProgress?: (progress: LoadProgress) => void;
  readonly signal?: AbortSignal;
}

/** Bytes of a local file that are read at once. */
const CHUNK_BYTES = 4_194_304;

/** model.json is the one file whose size nobody has told yet. */
const MOST_JSON_BYTES = 1_000_000;

/**
 * Loads the bundle whose `model.json` lies in the folder or under the URL `source`.
 *
 * @throws {EngineError} `bundle_invalid`, naming the file and what is wrong with it
 *
 * @example
 * ```ts
 * import { loadBundle } from "./loader.ts";
 * const bundle = await loadBundle(new URL("../models/tiny/", import.meta.url));
 * if (bundle.manifest.format !== "cinnabar-bundle") throw new Error("unreachable");
 * ```
 */
export async function loadBundle(
  source: string | URL,
  options: LoadOptions = {},
): Promise<Bundle> {
  const base = folderUrl(source);
  const model = await read(base, "model.json", options);
  const manifest = parseManifest(parseJson("model.json", model.bytes));
  const { weights, tokenizer, tokenizerConfig } = manifest.files;
  const json = async (file: BundleFile) =>
    parseJson(file.path, await readVerified(base, file, options));
  return {
    manifest,
    tokenizerJson: await json(tokenizer),
    tokenizerConfig: await json(tokenizerConfig),
    weights: await readVerified(base, weights, options),
    url: base.href,
  };
}

function folderUrl(source: string | URL): URL {
  const isUrl = source instanceof URL || /^(https?|file):\/\//.test(source);
  const url = isUrl ? new URL(source) : pathToFileURL(source);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

async function readVerified(base: URL, file: BundleFile, options: LoadOptions) {
  const cached = base.protocol === "file:" || options.cacheDir === undefined
    ? undefined
    : join(options.cacheDir, file.sha256);
  if (cached !== undefined) {
    const chunks = createReadStream(cached, { highWaterMark: CHUNK_BYTES });
    const known = await collect(chunks, file.bytes).catch(() => undefined); // not there yet
    if (known?.sha256 === file.sha256) return known.bytes;
  }
  const { bytes, sha256 } = await read(base, file.path, options, file.bytes);
  const problem = (fact: string) =>
    new EngineError("bundle_invalid", `${file.path} in ${base.href}: ${fact}`);
  if (bytes.length !== file.bytes) {
    throw problem(`has ${bytes.length} bytes, model.json says ${file.bytes}`);
  }
  if (sha256 !== file.sha256) {
    throw problem(`has SHA-256 ${sha256}, model.json says ${file.sha256}`);
  }
  if (cached !== undefined && options.cacheDir !== undefined) {
    await mkdir(options.cacheDir, { recursive: true });
    const unfinished = `${cached}.${crypto.randomUUID()}`;
    await writeFile(unfinished, bytes);
    await rename(unfinished, cached);
  }
  return bytes;
}

/** Reads a file that model.json says to have `expected` bytes; model.json itself has none to say it. */
async function read(
  base: URL,
  file: string,
  { onProgress, signal }: LoadOptions,
  expected?: number,
): Promise<Received> {
  const url = new URL(file, base);
  try {
    signal?.throwIfAborted();
    const chunks = url.protocol === "file:"
      ? createReadStream(url, { highWaterMark: CHUNK_BYTES, signal })
      : await download(url, signal);
    return await collect(chunks, expected ?? MOST_JSON_BYTES, (received) => {
      onProgress?.({ file, received, total: expected ?? received });
    });
  } catch (cause) {
    if (signal?.aborted) {
      throw new EngineError("cancelled", `loading ${url.href} was cancelled`, { cause });
    }
    throw new EngineError("bundle_invalid", `cannot read ${url.href}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

async function download(url: URL, signal: AbortSignal | undefined) {
  const response = await fetch(url, { signal });
  if (response.ok && response.body !== null) return response.body;
  await response.body?.cancel();
  throw new Error(`the server answered ${response.status}`);
}

/** A file's content, and what it hashes to. */
interface Received {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly sha256: string;
}

/**
 * Gathers at most `limit` bytes into one buffer, hashing them as they come. (Reading and hashing a file in one call ends at
 * 2 GB, and would hold up every timer meanwhile.)
 */
async function collect(
  chunks: AsyncIterable<Uint8Array>,
  limit: number,
  onReceived: (bytes: number) => void = () => {},
): Promise<Received> {
  const hash = createHash("sha256");
  const out = new Uint8Array(limit);
  let received = 0;
  for await (const chunk of chunks) {
    if (received + chunk.length > limit) throw new Error(`more than the ${limit} bytes to come`);
    out.set(chunk, received);
    hash.update(chunk);
    received += chunk.length;
    onReceived(received);
  }
  const bytes = received === limit ? out : out.slice(0, received);
  return { bytes, sha256: hash.digest("hex") };
}

function parseJson(file: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new EngineError("bundle_invalid", `${file} is not JSON: ${messageOf(cause)}`, { cause });
  }
}
