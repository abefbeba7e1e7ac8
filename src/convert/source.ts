/** What a user may name as the source of a conversion: a folder, or a checkpoint on a hub. */
import { stat } from "node:fs/promises";
import { EngineError } from "../errors.ts";
import { downloadCheckpoint, type DownloadOptions, parseHubId } from "./hub.ts";

/**
 * The folder of the checkpoint that `source` names. A folder that exists is that folder; `owner/name` and
 * `owner/name@revision` are ids of a hub, and downloaded.
 *
 * @throws {EngineError} `invalid_request` where `source` is neither; else as downloadCheckpoint()
 */
export async function openSource(source: string, options: DownloadOptions): Promise<string> {
  const found = await stat(source).catch(() => undefined); // absent
  if (found?.isDirectory()) return source;
  const id = parseHubId(source);
  if (id !== undefined && found === undefined) return await downloadCheckpoint(id, options);
  throw new EngineError(
    "invalid_request",
    `SOURCE ${source} is ${found === undefined ? "neither" : "a file, and so neither"} ` +
      `the folder of a checkpoint (config.json, tokenizer.json, *.safetensors) ` +
      `nor the id of one on a hub (owner/name or owner/name@revision)`,
    { param: "source" },
  );
}
