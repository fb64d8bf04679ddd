// What a folder store says of its files: ETags, and the listing in the order of key bytes.
//
// The ETag of a file of at most 64 KiB is made of its content, so that compare-and-swap cannot mistake a later version
// for an earlier one however fast files are replaced and inode numbers are used again. That of a larger file is made of
// modification time, size and inode number.
import { type BigIntStats, type Dirent, lstatSync, readFileSync, statSync } from "node:fs";
import { open, readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { digestBytes } from "../core/artifact/digest.ts";
import { checkKey, checkPrefix, RESERVED_SEGMENT } from "../core/artifact/key.ts";
import { MergeyardError } from "../core/error.ts";
import { checkInside, locate, type Root, undefinedWhenAbsent } from "./directory-paths.ts";
import { OPEN_FLAGS } from "./directory-reads.ts";
import type { ObjectInfo } from "./store.ts";

/** Bytes up to which the ETag is made of the content. Too high: listing folders of small files reads more. */
const CONTENT_ETAG_BYTES_MAX = 65_536;
/** Files looked at together while listing. */
const LIST_BATCH = 32;

/** ETag of small content. */
function etagOfContent(bytes: Uint8Array): string {
  return `c-${digestBytes(bytes).slice("sha256:".length, "sha256:".length + 32)}`;
}

/** ETag of a file; `content` is asked for only when the file is small. */
export function etagOfFile(stats: BigIntStats, content: () => Uint8Array): string {
  return stats.size <= CONTENT_ETAG_BYTES_MAX ? etagOfContent(content()) : etagOfStats(stats);
}

function etagOfStats(stats: BigIntStats): string {
  return `s-${stats.mtimeNs.toString(36)}-${stats.size.toString(36)}-${stats.ino.toString(36)}`;
}

/** What the store says of the plain file at a path; undefined when there is none. */
export async function describeFile(path: string, key: string): Promise<ObjectInfo | undefined> {
  const known = await stat(path, { bigint: true });
  if (!known.isFile()) return undefined;
  if (known.size > CONTENT_ETAG_BYTES_MAX) return makeInfo(key, known, etagOfStats(known));
  const handle = await open(path, OPEN_FLAGS);
  try {
    const stats = await handle.stat({ bigint: true });
    const isSmall = stats.size <= CONTENT_ETAG_BYTES_MAX;
    return makeInfo(key, stats, isSmall ? etagOfContent(await handle.readFile()) : etagOfStats(stats));
  } finally {
    await handle.close();
  }
}

/** The same, for the guarded part of compare-and-swap, which may not wait. */
export function describeFileNow(path: string): { etag: string; stats: BigIntStats } | undefined {
  const link = lstatSync(path, { throwIfNoEntry: false });
  const stats = link && statSync(path, { bigint: true, throwIfNoEntry: false });
  if (stats === undefined || !stats.isFile()) return undefined;
  return { etag: etagOfFile(stats, () => readFileSync(path)), stats };
}

function makeInfo(key: string, stats: BigIntStats, etag: string): ObjectInfo {
  return { key, bytes: Number(stats.size), etag, modifiedMs: Number(stats.mtimeMs) };
}

/** Objects whose key starts with `prefix`, sorted by key bytes. Throws StoreLinkRefused, StoreKeyInvalid. */
export async function* listFiles(root: Root, prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
  checkPrefix(prefix);
  const folder = prefix.slice(0, prefix.lastIndexOf("/") + 1);
  const start =
    folder === "" ? await realpath(root.path).catch(undefinedWhenAbsent) : await locate(root, folder.slice(0, -1));
  if (start !== undefined) yield* walk({ root, prefix, signal }, start, folder, []);
}

type Walk = { readonly root: Root; readonly prefix: string; readonly signal: AbortSignal | undefined };
type Entry = { readonly key: string; readonly path: string; readonly isFolder: boolean; readonly order: Buffer };

async function* walk(to: Walk, path: string, base: string, above: readonly string[]): AsyncGenerator<ObjectInfo> {
  if (above.includes(path)) {
    throw new MergeyardError("StoreLinkRefused", { where: { store: to.root.path, file: base }, found: "a circle" });
  }
  const entries = await readEntries(to, path, base);
  let files: Entry[] = [];
  for (const entry of entries) {
    to.signal?.throwIfAborted();
    if (!entry.isFolder) files.push(entry);
    if (entry.isFolder || files.length === LIST_BATCH) {
      yield* describeAll(files);
      files = [];
    }
    if (entry.isFolder) yield* walk(to, entry.path, `${entry.key}/`, [...above, path]);
  }
  yield* describeAll(files);
}

async function* describeAll(files: readonly Entry[]): AsyncGenerator<ObjectInfo> {
  const infos = await Promise.all(files.map((file) => describeFile(file.path, file.key).catch(undefinedWhenAbsent)));
  for (const info of infos) if (info !== undefined) yield info;
}

async function readEntries(to: Walk, path: string, base: string): Promise<Entry[]> {
  const found = (await readdir(path, { withFileTypes: true }).catch(undefinedWhenAbsent)) ?? [];
  const entries: Entry[] = [];
  for (const item of found) {
    const entry = await toEntry(to, path, base, item);
    if (entry !== undefined) entries.push(entry);
  }
  return entries.sort((a, b) => Buffer.compare(a.order, b.order));
}

/** The entry when it can hold keys with the prefix; links are followed here, inside the root only. */
async function toEntry(to: Walk, folder: string, base: string, item: Dirent): Promise<Entry | undefined> {
  if (base === "" && item.name === RESERVED_SEGMENT) return undefined;
  const key = base + item.name;
  if (!key.startsWith(to.prefix) && !to.prefix.startsWith(`${key}/`)) return undefined;
  let path = join(folder, item.name);
  let isFolder = item.isDirectory();
  let isFile = item.isFile();
  if (item.isSymbolicLink()) {
    const real = await realpath(path).catch(undefinedWhenAbsent);
    if (real === undefined) return undefined;
    path = checkInside(to.root, real, key);
    const stats = await stat(path).catch(undefinedWhenAbsent);
    isFolder = stats?.isDirectory() ?? false;
    isFile = stats?.isFile() ?? false;
  }
  if (!isFolder && !isFile) return undefined;
  checkKey(key);
  return { key, path, isFolder, order: Buffer.from(isFolder ? `${key}/` : key) };
}
