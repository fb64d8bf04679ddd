// A checkpoint named on the command line: a folder, a file or an s3:// URI, opened by reading its headers.
import { statSync } from "node:fs";
import path from "node:path";
import { MergeyardError } from "../core/error.ts";
import type { CheckpointInfo } from "../core/universal/checkpoint-info.ts";
import { openPlace, type StoredCheckpoint } from "../steps/open-checkpoint.ts";
import type { OpenStore } from "../stores/store.ts";
import { isUri, toUri } from "./arguments.ts";
import type { Terminal } from "./terminal.ts";

/** Where a path leads: a folder, or one file of a folder. */
type SourcePlace = { readonly folder: string; readonly file: string | undefined };

/** Opens what `text` names. Throws CliSourceMissing and everything that opening a checkpoint throws. */
export async function openSource(
  text: string,
  openStore: OpenStore,
  terminal: Terminal,
  patterns?: CheckpointInfo,
): Promise<StoredCheckpoint> {
  const { folder, file } = locateSource(text, terminal.cwd);
  return openPlace({ store: openStore(folder), prefix: "", file }, terminal.signal, patterns);
}

/** What a checkpoint is called in the input of a step. */
export function sourceInput(text: string, cwd: string): { source: string; sourceFile: string | undefined } {
  const { folder, file } = locateSource(text, cwd);
  return { source: folder, sourceFile: file };
}

/** A path is looked at; of a URI, one whose last part has a checkpoint file's extension is a file. */
export function locateSource(text: string, cwd: string): SourcePlace {
  if (isUri(text)) {
    const match = /^(.*)\/([^/]+\.(?:safetensors|gguf|bin|pt|pth|ckpt))$/.exec(text);
    return match === null ? { folder: toUri(text, cwd), file: undefined } : { folder: match[1] ?? "", file: match[2] };
  }
  const absolute = path.resolve(cwd, text);
  const stat = statSync(absolute, { throwIfNoEntry: false });
  if (stat === undefined) throw new MergeyardError("CliSourceMissing", { where: { file: absolute } });
  if (stat.isDirectory()) return { folder: toUri(absolute, cwd), file: undefined };
  return { folder: toUri(path.dirname(absolute), cwd), file: path.basename(absolute) };
}
