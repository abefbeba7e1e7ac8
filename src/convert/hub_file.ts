/** One file of a hub's repository: its place in the listing, its hash, and a download that goes on where it stopped. */
import { createHash, type Hash } from "node:crypto";
import { constants, type FileHandle, open, rename, rm } from "node:fs/promises";
import { EngineError, messageOf } from "../errors.ts";
import type { HubAnswer, HubRequests } from "./hub_request.ts";

/** A file of a repository, as the hub lists it. */
export interface HubFile {
  /** Its name; only files at the top of a repository are downloaded. */
  readonly path: string;
  readonly bytes: number;
  /** How git names a small file, and LFS a large one. */
  readonly algorithm: "git-sha1" | "sha256";
  /** In hexadecimal. */
  readonly hash: string;
}

/** Attempts in a row that bring no byte, before a download gives up. */
const FILE_TRIES = 6;
/** Bytes of an unfinished file that are read at once. */
const CHUNK_BYTES = 4_194_304;

/**
 * Downloads `file` from `url` to `path`. Until all of it is there and has the listed hash it is `path`.partial, where a later
 * run goes on.
 *
 * Neither an ETag nor If-Range decides that, as the addresses of a file's hosts may differ in both: `url` names a commit, the
 * caller's folder too, and the hash is of the whole file, so that no mixture of two files passes.
 */
export async function downloadFile(
  file: HubFile,
  { url, path, requests, onNote, onReceived }: {
    readonly url: string;
    readonly path: string;
    readonly requests: HubRequests;
    readonly onNote: (note: string) => void;
    /** Hears how many bytes of the file are there. */
    readonly onReceived: (bytes: number) => void;
  },
): Promise<void> {
  const partial = `${path}.partial`;
  const handle = await onDisk(partial, open(partial, constants.O_RDWR | constants.O_CREAT));
  try {
    let received = (await onDisk(partial, handle.stat())).size;
    let hash = startHash(file);
    const restart = async () => {
      await onDisk(partial, handle.truncate(0));
      received = 0;
      hash = startHash(file);
      onReceived(0);
    };
    if (received > file.bytes) await restart(); // not of this file
    if (received > 0) {
      onNote(`${file.path} goes on at ${received} of ${file.bytes} bytes`);
      await hashStart(handle, partial, received, hash);
    }
    await requests.retry(FILE_TRIES, () => received, async () => {
      if (received === file.bytes) return;
      const answer = await requests.get(url, {
        "accept-encoding": "identity", // a range of a compressed form would not fit
        ...(received > 0 ? { range: `bytes=${received}-` } : {}),
      });
      const from = firstByte(answer);
      if (from !== received) await restart();
      if (from !== received) throw new Error("the server sent another range than was asked for");
      for await (const chunk of answer.chunks) {
        if (received + chunk.length > file.bytes) {
          await discard(partial);
          throw broken(file, `more than the ${file.bytes} bytes that the hub lists`);
        }
        for (let done = 0; done < chunk.length;) {
          const writing = handle.write(chunk, done, chunk.length - done, received + done);
          done += (await onDisk(partial, writing)).bytesWritten;
        }
        hash.update(chunk);
        received += chunk.length;
        onReceived(received);
      }
      if (received < file.bytes) {
        throw new Error(`the connection ended ${file.bytes - received} bytes early`);
      }
    });
    const digest = hash.digest("hex");
    if (digest !== file.hash) {
      await discard(partial);
      throw broken(file, `${file.algorithm} ${digest}, where the hub lists ${file.hash}`);
    }
    await onDisk(partial, handle.sync()); // a name without .partial is trusted from here on
  } finally {
    await handle.close();
  }
  await onDisk(path, rename(partial, path));
}

/** Where in the file the answer begins: at 0 where the server ignores the range, undefined where it holds nothing. */
function firstByte({ status, headers }: HubAnswer): number | undefined {
  if (status === 200) return 0;
  const range = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "");
  return status === 206 && range !== null ? Number(range[1]) : undefined;
}

function startHash({ algorithm, bytes }: HubFile): Hash {
  if (algorithm === "sha256") return createHash("sha256");
  return createHash("sha1").update(`blob ${bytes}\0`); // git's name of a blob
}

async function hashStart(handle: FileHandle, path: string, bytes: number, hash: Hash) {
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
  for (let position = 0; position < bytes;) {
    const reading = handle.read(buffer, 0, Math.min(buffer.length, bytes - position), position);
    const { bytesRead } = await onDisk(path, reading);
    if (bytesRead === 0) throw diskError(path, "it became shorter while it was read");
    hash.update(buffer.subarray(0, bytesRead));
    position += bytesRead;
  }
}

async function discard(path: string): Promise<void> {
  await onDisk(path, rm(path, { force: true }));
}

function broken(file: HubFile, fact: string): EngineError {
  return new EngineError(
    "checkpoint_unavailable",
    `${file.path} arrived with ${fact}; what arrived was deleted, another run downloads it again`,
    { param: "source" },
  );
}

/** Waits for work on the disk; a failure names `path` and is final, unlike one of the network. */
export async function onDisk<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw diskError(path, messageOf(cause), cause);
  }
}

function diskError(path: string, fact: string, cause?: unknown): EngineError {
  return new EngineError(
    "checkpoint_unavailable",
    `cannot write ${path}: ${fact}; --cache chooses another folder for downloads`,
    { param: "cacheDir", cause },
  );
}
