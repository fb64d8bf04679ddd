// What a push uploads: the files of a folder as they are at one moment, with the ETags by which a change is noticed
// later. A training job's folder holds many steps; one of them is taken.
import assert from "node:assert/strict";
import { digestBytes } from "../../core/artifact/digest.ts";
import type { FolderReader } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { recogniseFormat } from "../../core/formats/registry.ts";
import { fileRole } from "../../core/formats/side-files.ts";
import { findStepFolders, parseStepFolder, type StepFolder } from "../../core/formats/step-folder.ts";
import { FOLDER_LIMITS, RANK_LIMITS } from "../../core/limits.ts";
import { readRange } from "../../stores/objects.ts";
import type { ObjectInfo, ObjectStore } from "../../stores/store.ts";
import { fingerprintFiles, locateErrors } from "../open-checkpoint.ts";

/** A file to upload under `name`: an object of the folder, or a text that stands for one. */
export type SnapshotFile = {
  readonly name: string;
  readonly bytes: number;
  readonly etag: string;
  readonly modifiedMs: number;
  readonly content: { readonly key: string } | { readonly text: Uint8Array };
};

export type Snapshot = {
  readonly source: ObjectStore;
  /** What the upload is called after: the step's folder, else the folder itself. */
  readonly label: string;
  readonly step: number | null;
  readonly files: readonly SnapshotFile[];
};

/** Names, sizes and ETags: the same as long as nothing changes. */
export function fingerprintSnapshot({ files }: Pick<Snapshot, "files">): string {
  return fingerprintFiles(files);
}

/**
 * The files of the folder. Where a pointer file names a step, those of other steps are left out; a trainer's
 * `checkpoint-N` folders always are; so are hidden files and folders, but for `.metadata`. Throws CheckpointEmpty,
 * CheckpointTooManyFiles, and what the store throws.
 */
export async function takeSnapshot(source: ObjectStore, signal: AbortSignal): Promise<Snapshot> {
  const infos = await listVisible(source, "", signal);
  const steps = findStepFolders(infos.map(({ key }) => key));
  const step = await findPointed(source, infos, steps, signal);
  const isOther = (folder: string) => {
    const other = steps.find((each) => each.folder === folder);
    return other !== undefined && other !== step && (other.lastFile !== undefined || step !== undefined);
  };
  const kept = infos.filter(({ key }) => !isOther(key.split("/")[0] ?? ""));
  if (kept.length === 0) {
    const found = steps.length === 0 ? "no files" : `only folders of steps: ${steps.map((each) => each.folder)}`;
    const hint = "name one step's folder, or follow them all with --watch";
    throw new MergeyardError("CheckpointEmpty", { where: { store: source.uri }, found, hint });
  }
  const own = decodeURIComponent(new URL(source.uri).pathname.split("/").findLast((part) => part !== "") ?? "");
  const label = step?.folder ?? own;
  const files = kept.map((info) => toFile(info, info.key));
  return { source, label: toLabel(label), step: step?.step ?? parseStepFolder(own)?.step ?? null, files };
}

/** The step that a pointer file beside the folders names. */
async function findPointed(
  source: ObjectStore,
  infos: readonly ObjectInfo[],
  steps: readonly StepFolder[],
  signal: AbortSignal,
): Promise<StepFolder | undefined> {
  const files = new Set(steps.flatMap(({ pointer }) => pointer?.file ?? []));
  for (const file of files) {
    const text = await readPointer(source, infos, file, signal);
    const pointed = steps.find((step) => step.pointer?.file === file && step.pointer.textOf(step) === text);
    if (pointed !== undefined) return pointed;
  }
  return undefined;
}

/**
 * The files of one step's folder. Where a pointer file names steps, it keeps its folder and gets a pointer of its own,
 * since the one that is there moves on.
 */
export async function takeStepSnapshot(
  source: ObjectStore,
  { folder, step, pointer }: StepFolder,
  signal: AbortSignal,
): Promise<Snapshot> {
  const infos = await listVisible(source, `${folder}/`, signal);
  const label = toLabel(folder);
  const isPointed =
    pointer?.isAlways === true || (pointer && (await source.head(pointer.file, { signal }))) !== undefined;
  if (pointer === undefined || !isPointed) {
    const files = infos.map((info) => toFile(info, info.key.slice(folder.length + 1)));
    return { source, label, step, files };
  }
  const text = new TextEncoder().encode(pointer.textOf({ folder, step }));
  const named = { name: pointer.file, bytes: text.length, etag: digestBytes(text), modifiedMs: 0, content: { text } };
  const patterns = await source.head("universal_checkpoint_info.json", { signal });
  const beside = patterns === undefined ? [] : [patterns];
  return { source, label, step, files: [...[...infos, ...beside].map((info) => toFile(info, info.key)), named] };
}

/** First line of a small text file; undefined when it is not among the files. */
export async function readPointer(
  source: ObjectStore,
  infos: readonly ObjectInfo[],
  name: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (!infos.some(({ key }) => key === name)) return undefined;
  const stored = await source.get(name, RANK_LIMITS.textBytes, { signal });
  return stored && new TextDecoder().decode(stored.bytes).trim();
}

/** Every file but hidden ones, which are editors', version control's or our own. */
export async function listVisible(source: ObjectStore, prefix: string, signal: AbortSignal): Promise<ObjectInfo[]> {
  const infos: ObjectInfo[] = [];
  for await (const info of source.list(prefix, { signal })) {
    const isHidden = info.key.split("/").some((part) => part.startsWith(".") && part !== ".metadata");
    if (isHidden || info.key.endsWith("/")) continue;
    if (infos.length === FOLDER_LIMITS.files) {
      const expected = `at most ${FOLDER_LIMITS.files} files`;
      throw new MergeyardError("CheckpointTooManyFiles", { where: { store: source.uri }, expected });
    }
    infos.push(info);
  }
  return infos;
}

function toFile({ key, bytes, etag, modifiedMs }: ObjectInfo, name: string): SnapshotFile {
  return { name, bytes, etag, modifiedMs, content: { key } };
}

function toLabel(name: string): string {
  const label = name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");
  return label === "" ? "upload" : label.slice(0, 100);
}

/**
 * Reads the headers of the files as a checkpoint. Throws what opening one throws: it is not whole, or none at all.
 * Returns the names of files of other weights, which lie there and which nobody will read.
 */
export async function checkSnapshot({ source, files }: Snapshot, signal: AbortSignal): Promise<readonly string[]> {
  const byName = new Map(files.map((file) => [file.name, file]));
  const folder: FolderReader = {
    files: files.map(({ name, bytes }) => ({ name, bytes })),
    async read(name, offset, bytes) {
      const content = byName.get(name)?.content;
      assert.ok(content !== undefined, "a reader asks for files of its folder");
      if ("text" in content) return content.text.subarray(offset, offset + bytes);
      return readRange(source, content.key, offset, bytes, { signal });
    },
  };
  const { warnings } = await locateErrors(source, "", () => recogniseFormat(folder.files).open(folder));
  const ignored = warnings.flatMap(({ code, where }) => (code === "FileIgnored" ? [where.file ?? ""] : []));
  return ignored.filter((name) => fileRole(name) === "weights");
}

/** Throws StoreObjectChanged, naming the first file that is not what it was when the snapshot was taken. */
export function checkUnchanged(before: Snapshot, after: Snapshot): void {
  if (fingerprintSnapshot(before) === fingerprintSnapshot(after)) return;
  const now = new Map(after.files.map((file) => [file.name, file]));
  const then = new Map(before.files.map((file) => [file.name, file]));
  const changed = before.files.find(({ name, etag }) => now.get(name)?.etag !== etag);
  const added = after.files.find(({ name }) => !then.has(name));
  const found =
    changed === undefined ? "a new file" : now.has(changed.name) ? "other content" : "no such file any more";
  throw sourceChanged(before.source, changed?.name ?? added?.name ?? "", found);
}

/** StoreObjectChanged: a file is not what it was when the push began. */
export function sourceChanged(source: ObjectStore, file: string, found: string): MergeyardError {
  const hint = "wait until whoever writes the folder has finished, then push again";
  return new MergeyardError("StoreObjectChanged", { where: { store: source.uri, file }, found, hint });
}
