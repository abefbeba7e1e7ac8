/** What a hub says of a repository, asked through its own package: the commit of a revision, the files of a commit. */
// deno-lint-ignore no-import-prefix -- in deno.json, everybody who starts the server would download it
import type * as Hub from "npm:@huggingface/hub@2.17.5";
import * as v from "valibot";
import { EngineError, messageOf } from "../errors.ts";
import type { HubFile } from "./hub_file.ts";
import { unreachable } from "./hub_request.ts";

/** Questions about one repository. */
export interface HubListing {
  /** The commit that a branch, a tag or a commit stands for. */
  commitOf(revision: string): Promise<string>;
  /** The files at the top of the repository, by their names. */
  files(commit: string): Promise<ReadonlyMap<string, HubFile>>;
}

const hex = (digits: number) => v.pipe(v.string(), v.regex(new RegExp(`^[0-9a-f]{${digits}}$`)));
const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
/** What is used of an entry; names of folders and hashes come from here, so nothing is taken on trust. */
const EntrySchema = v.object({
  path: v.string(),
  size: bytes,
  oid: hex(40),
  lfs: v.optional(v.object({ oid: hex(64), size: bytes })),
});
const CommitSchema = hex(40);

/**
 * Opens the listing of `repo`. The package is loaded now, so that a conversion of a folder downloads nothing.
 *
 * It lists, follows pages and knows the addresses. The token is not given to it but added by `fetch`: the package would send it
 * to whatever host a `Link` header names, and accepts none that another hub may hand out. Its downloads are not used, as they
 * check no hash and cannot go on where they stopped.
 */
export async function openListing(
  repo: string,
  { endpoint, fetch }: { readonly endpoint: string; readonly fetch: typeof globalThis.fetch },
): Promise<HubListing> {
  const { host } = new URL(endpoint);
  // Not a literal: Deno would download what a literal names before the program starts.
  const specifier = "Deno" in globalThis ? "npm:@huggingface/hub@2.17.5" : "@huggingface/hub";
  const hub: typeof Hub = await import(specifier).catch((cause) => {
    throw unreachable(host, repo, new Error(`@huggingface/hub is not there: ${messageOf(cause)}`));
  });
  const asHub = async <T>(answer: () => Promise<T>): Promise<T> => {
    try {
      return await answer();
    } catch (cause) {
      if (cause instanceof EngineError) throw cause;
      throw new EngineError(
        "checkpoint_unavailable",
        `${host} does not answer as a hub does for ${repo}: ${messageOf(cause)}`,
        { param: "endpoint", cause },
      );
    }
  };
  const shared = { hubUrl: endpoint, fetch };
  return {
    commitOf: (revision) =>
      asHub(async () => {
        const { sha } = await hub.modelInfo({
          name: repo,
          revision,
          additionalFields: ["sha"],
          ...shared,
        });
        return v.parse(CommitSchema, sha);
      }),
    files: (commit) =>
      asHub(async () => {
        const files = new Map<string, HubFile>();
        const designation = { type: "model", name: repo } as const;
        for await (
          const entry of hub.listFiles({ repo: designation, revision: commit, ...shared })
        ) {
          if (entry.type !== "file") continue;
          const { path, size, oid, lfs } = v.parse(EntrySchema, entry);
          files.set(
            path,
            lfs === undefined
              ? { path, bytes: size, algorithm: "git-sha1", hash: oid }
              : { path, bytes: lfs.size, algorithm: "sha256", hash: lfs.oid },
          );
        }
        return files;
      }),
  };
}
