/**
 * The cache of one repository: a folder per commit with the files of its checkpoint and the list of them (download.json), and
 * per branch or tag a file (ref-main) with the commit that it last stood for.
 */
import {
  copyFile,
  link,
  mkdir,
  readdir,
  readFile,
  rename,
  stat,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { type HubFile, onDisk } from "./hub_file.ts";

const COMMIT = /^[0-9a-f]{40}$/;
const LIST = "download.json";

const ListSchema = v.object({
  files: v.array(v.object({
    path: v.pipe(v.string(), v.regex(/^\w[\w.-]*$/)),
    bytes: v.number(),
    algorithm: v.picklist(["git-sha1", "sha256"]),
    hash: v.string(),
  })),
});

/** The commit that `revision` stood for when it was last downloaded, if all its files are there. */
export async function cachedCommit(folder: string, revision: string): Promise<string | undefined> {
  const commit = COMMIT.test(revision)
    ? revision
    : (await readFile(refFile(folder, revision), "utf8").catch(() => "")).trim(); // never downloaded
  if (!COMMIT.test(commit)) return undefined;
  const files = await listed(join(folder, commit));
  const sizes = files.map(({ path }) => sizeOf(join(folder, commit, path)));
  const complete = (await Promise.all(sizes)).every((size, i) => size === files[i].bytes);
  return files.length > 0 && complete ? commit : undefined;
}

/** Remembers what `revision` stands for, once the commit's files are there. */
export async function recordCommit(
  folder: string,
  { revision, commit }: { readonly revision: string; readonly commit: string },
): Promise<void> {
  if (COMMIT.test(revision)) return;
  const path = refFile(folder, revision);
  await onDisk(path, writeFile(path, `${commit}\n`));
}

/** Makes the folder of a commit, and writes down which files it will hold. */
export async function recordFiles(folder: string, files: readonly HubFile[]): Promise<void> {
  await onDisk(folder, mkdir(folder, { recursive: true }));
  const path = join(folder, LIST);
  await onDisk(path, writeFile(path, JSON.stringify({ files }, null, 2) + "\n"));
}

/**
 * Whether `file` is in the folder of `commit`. If another commit has the same content, it is linked from there, or its
 * unfinished download moved here: a new commit seldom changes the weights.
 */
export async function isThere(folder: string, commit: string, file: HubFile): Promise<boolean> {
  const path = join(folder, commit, file.path);
  if (await sizeOf(path) === file.bytes) return true;
  for (const other of await onDisk(folder, readdir(folder))) {
    if (!COMMIT.test(other) || other === commit) continue;
    const same = (await listed(join(folder, other))).find(({ hash }) => hash === file.hash);
    if (same === undefined) continue;
    const source = join(folder, other, same.path);
    if (await sizeOf(source) === file.bytes) {
      // not every file system has links
      await link(source, path).catch(() => onDisk(path, copyFile(source, path)));
      return true;
    }
    if (await sizeOf(`${path}.partial`) === undefined && await sizeOf(`${source}.partial`)) {
      await onDisk(path, rename(`${source}.partial`, `${path}.partial`));
    }
  }
  return false;
}

/** Bytes of a file, undefined where there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  return await stat(path).then(({ size }) => size, () => undefined);
}

/** The files that a commit's folder holds or will hold; none where nothing readable says so. */
async function listed(folder: string): Promise<readonly HubFile[]> {
  try {
    return v.parse(ListSchema, JSON.parse(await readFile(join(folder, LIST), "utf8"))).files;
  } catch {
    return []; // the download ended before, or somebody changed it: asking the hub again mends both
  }
}

function refFile(folder: string, revision: string): string {
  return join(folder, `ref-${encodeURIComponent(revision)}`);
}
