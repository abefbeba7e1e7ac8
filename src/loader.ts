/** A bundle from a folder or a URL to verified bytes. */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
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
  const manifest = parseManifest(parseJson("model.json", await read(base, "model.json", options)));
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
    const bytes = await readWhole(cached).catch(() => new Uint8Array(0)); // not there yet
    if (await sha256(bytes) === file.sha256) return bytes;
  }
  const bytes = await read(base, file.path, options, file.bytes);
  const problem = (fact: string) =>
    new EngineError("bundle_invalid", `${file.path} in ${base.href}: ${fact}`);
  if (bytes.length !== file.bytes) {
    throw problem(`has ${bytes.length} bytes, model.json says ${file.bytes}`);
  }
  const hash = await sha256(bytes);
  if (hash !== file.sha256) throw problem(`has SHA-256 ${hash}, model.json says ${file.sha256}`);
  if (cached !== undefined && options.cacheDir !== undefined) {
    await mkdir(options.cacheDir, { recursive: true });
    const unfinished = `${cached}.${crypto.randomUUID()}`;
    await writeFile(unfinished, bytes);
    await rename(unfinished, cached);
  }
  return bytes;
}

async function read(
  base: URL,
  file: string,
  { onProgress, signal }: LoadOptions,
  expected = 0,
): Promise<Uint8Array<ArrayBuffer>> {
  const url = new URL(file, base);
  try {
    if (url.protocol === "file:") {
      const bytes = await readWhole(url, signal);
      onProgress?.({ file, received: bytes.length, total: bytes.length });
      return bytes;
    }
    const response = await fetch(url, { signal });
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      throw new Error(`the server answered ${response.status}`);
    }
    const total = expected || Number(response.headers.get("content-length") ?? 0);
    return await collect(response.body, {
      limit: expected || MOST_JSON_BYTES,
      onReceived: (received) => onProgress?.({ file, received, total }),
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

/** A whole file, without a second copy of it in memory. */
async function readWhole(path: string | URL, signal?: AbortSignal) {
  const bytes = await readFile(path, { signal });
  const { buffer } = bytes;
  const ownsBuffer = buffer instanceof ArrayBuffer && buffer.byteLength === bytes.length;
  return ownsBuffer ? new Uint8Array(buffer) : new Uint8Array(bytes); // small ones share a pool
}

/** What a body delivers, at most `limit` bytes, into one buffer. */
async function collect(
  body: AsyncIterable<Uint8Array>,
  options: { readonly limit: number; readonly onReceived: (bytes: number) => void },
): Promise<Uint8Array<ArrayBuffer>> {
  let out = new Uint8Array(options.limit);
  let received = 0;
  for await (const chunk of body) {
    if (received + chunk.length > options.limit) {
      throw new Error(`more than the ${options.limit} bytes that were to come`);
    }
    out.set(chunk, received);
    received += chunk.length;
    options.onReceived(received);
  }
  if (received < out.length) out = out.slice(0, received);
  return out;
}

function parseJson(file: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new EngineError("bundle_invalid", `${file} is not JSON: ${messageOf(cause)}`, { cause });
  }
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
