// Opening a checkpoint that lies in a store: list the folder, read the headers, learn the digests that a manifest
// states. No byte of weights is read.
import { type Digest, digestBytes } from "../core/artifact/digest.ts";
import type { PlainFile } from "../core/artifact/listed-file.ts";
import type { CheckpointFile, FolderReader, TensorEntry } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import type { OpenedCheckpoint, WritableCheckpoint } from "../core/formats/format.ts";
import { describeByManifest } from "../core/formats/published.ts";
import { openQuantized } from "../core/formats/quantized/folder.ts";
import { recogniseFile, recogniseFormat } from "../core/formats/registry.ts";
import { fileRole } from "../core/formats/side-files.ts";
import { FOLDER_LIMITS } from "../core/limits.ts";
import type { CheckpointInfo } from "../core/universal/checkpoint-info.ts";
import { readRange } from "../stores/objects.ts";
import type { FolderPlace, ObjectInfo, ObjectStore } from "../stores/store.ts";

export type StoredCheckpoint = OpenedCheckpoint & {
  /**
   * Identity of the checkpoint without reading its weights: `digest` when it has one, else the digest of the names,
   * sizes and ETags of its files.
   */
  readonly fingerprint: Digest;
};

/**
 * The checkpoint in the folder `prefix` ("" or ending in "/").
 * Throws: Checkpoint, Safetensors, Universal and Manifest codes with the store and the file's key, and what the store
 * throws.
 */
export async function openCheckpoint(
  store: ObjectStore,
  prefix: string,
  signal?: AbortSignal,
  patterns?: CheckpointInfo,
): Promise<StoredCheckpoint> {
  return locateErrors(store, prefix, async () => {
    const objects = await listFolder(store, prefix, signal);
    const folder = { ...createFolderReader(store, prefix, objects, signal), patterns };
    const opened = await describeByManifest(folder, await recogniseFormat(folder.files).open(folder));
    const fingerprint = opened.digest ?? fingerprintUsed(opened, objects, prefix);
    const read = ({ ranges: [range] }: TensorEntry) =>
      folder.read(range?.file ?? "", range?.offset ?? 0, range?.bytes ?? 0);
    return { ...(await openQuantized(opened, read)), fingerprint };
  });
}

/** The checkpoint that is one file; files beside it are not looked at. Throws as `openCheckpoint`. */
export async function openCheckpointFile(
  store: ObjectStore,
  key: string,
  signal?: AbortSignal,
): Promise<StoredCheckpoint> {
  const prefix = key.slice(0, key.lastIndexOf("/") + 1);
  return locateErrors(store, prefix, async () => {
    const info = await store.head(key, { signal });
    const name = key.slice(prefix.length);
    if (info === undefined) throw new MergeyardError("CheckpointFileMissing", { where: { file: name } });
    const file = { name, bytes: info.bytes };
    const folder = createFolderReader(store, prefix, [info], signal);
    const opened = await recogniseFile(file).open(folder);
    return { ...opened, fingerprint: opened.digest ?? fingerprintUsed(opened, [info], prefix) };
  });
}

/** A checkpoint's folder, or the one file of it that is meant. */
export type CheckpointPlace = FolderPlace & { readonly file?: string | undefined };

/** The checkpoint in a folder, or the one file of it that is named. Throws as `openCheckpoint`. */
export function openPlace(
  { store, prefix, file }: CheckpointPlace,
  signal?: AbortSignal,
  patterns?: CheckpointInfo,
): Promise<StoredCheckpoint> {
  return file === undefined
    ? openCheckpoint(store, prefix, signal, patterns)
    : openCheckpointFile(store, `${prefix}${file}`, signal);
}

/** Bytes of the files of tensors. */
export function tensorFileBytes({ checkpoint }: Pick<StoredCheckpoint, "checkpoint">): number {
  return checkpoint.tensorFiles.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Side files that travel with a checkpoint; an index speaks of files that a conversion replaces. */
export function travellingFiles({ checkpoint, conversion }: WritableCheckpoint): readonly CheckpointFile[] {
  if (conversion === undefined) return checkpoint.sideFiles;
  return checkpoint.sideFiles.filter(({ name }) => fileRole(name) !== "index");
}

/** Small files that travel with a checkpoint and lie nowhere: what its format says in other words. */
export function writtenDocuments({ checkpoint }: Pick<OpenedCheckpoint, "checkpoint">): readonly WrittenDocument[] {
  const taken = new Set(checkpoint.sideFiles.map(({ name }) => name));
  return [...(checkpoint.documents ?? [])]
    .filter(([name]) => !taken.has(name))
    .map(([name, bytes]) => ({ name, bytes }));
}

export type WrittenDocument = { readonly name: string; readonly bytes: Uint8Array };

/** The listing of a document once it is written. */
export function listDocument({ name, bytes }: WrittenDocument): PlainFile {
  return { name, bytes: bytes.length, digest: digestBytes(bytes) };
}

/** Digest of files' names, sizes and ETags; their order does not matter. */
export function fingerprintFiles(files: readonly (CheckpointFile & { readonly etag: string })[]): Digest {
  const lines = files.map(({ name, bytes, etag }) => `${JSON.stringify([name, bytes, etag])}\n`);
  return digestBytes(lines.sort().join(""));
}

/** Only files that the checkpoint uses count, so that a marker or a log beside it changes nothing. */
function fingerprintUsed({ checkpoint }: OpenedCheckpoint, objects: readonly ObjectInfo[], prefix: string): Digest {
  const used = new Set([...checkpoint.tensorFiles, ...checkpoint.sideFiles].map(({ name }) => prefix + name));
  const files = objects.filter(({ key }) => used.has(key));
  return fingerprintFiles(files.map(({ key, bytes, etag }) => ({ name: key.slice(prefix.length), bytes, etag })));
}

async function listFolder(store: ObjectStore, prefix: string, signal?: AbortSignal): Promise<ObjectInfo[]> {
  const objects: ObjectInfo[] = [];
  for await (const info of store.list(prefix, { signal })) {
    // Consoles create empty objects that end in "/" to show a folder.
    if (info.key.endsWith("/")) continue;
    if (objects.length === FOLDER_LIMITS.files) {
      const expected = `at most ${FOLDER_LIMITS.files} files`;
      throw new MergeyardError("CheckpointTooManyFiles", { found: "more", expected });
    }
    objects.push(info);
  }
  return objects;
}

function createFolderReader(
  store: ObjectStore,
  prefix: string,
  objects: readonly ObjectInfo[],
  signal: AbortSignal | undefined,
): FolderReader {
  return {
    files: objects.map(({ key, bytes }) => ({ name: key.slice(prefix.length), bytes })),
    read: (file, offset, bytes) => readRange(store, prefix + file, offset, bytes, { signal }),
  };
}

/** Runs `work`; errors of parsers, which know a file's name only, get the store and the whole key. */
export async function locateErrors<T>(store: ObjectStore, prefix: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof MergeyardError) || cause.where.store !== undefined) throw cause;
    const { code, where, found, expected, hint } = cause;
    const file = where.file === undefined ? prefix || undefined : prefix + where.file;
    throw new MergeyardError(code, { where: { ...where, store: store.uri, file }, found, expected, hint, cause });
  }
}
