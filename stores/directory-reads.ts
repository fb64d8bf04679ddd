// Ranged reads of a folder store: positional reads into the caller's memory, through a small cache of open descriptors
// (opening costs more than a small read). Before every read the path is looked at again: a descriptor whose file was
// replaced, rewritten or deleted is dropped, so a read sees the object as it is when the read begins, and never a
// mixture of two.
import { type BigIntStats, closeSync, constants, fstatSync, open, read, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { checkKey } from "../core/artifact/key.ts";
import { locate, type Root } from "./directory-paths.ts";
import { objectMissing, shortRead } from "./errors.ts";
import type { TransferOptions } from "./store.ts";

type OpenFile = {
  readonly path: string;
  readonly fd: number;
  readonly stats: BigIntStats;
  users: number;
  isRetired: boolean;
  isRecent: boolean;
};

export type ReadCache = {
  readonly root: Root;
  readonly files: Map<string, OpenFile>;
  timer: NodeJS.Timeout | undefined;
};

/** Descriptors kept open. Too high: deleted files keep their space for longer; too low: files are opened again. */
const OPEN_FILES_MAX = 64;
/** Milliseconds between looks for unused descriptors; one that two looks found unused is closed. */
const IDLE_MS = 5000;
/** Bytes asked for in one system call; Linux reads at most 2 GiB - 4 KiB at once. */
const CALL_BYTES_MAX = 1 << 30;
/** Never follow a link that appeared after the check, never wait for the writer of a pipe. */
export const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

export function createReadCache(root: Root): ReadCache {
  return { root, files: new Map(), timer: undefined };
}

/**
 * Fills `into` from `offset` of a key's file. Throws StoreKeyInvalid, StoreObjectMissing, StoreShortRead, and the
 * signal's reason.
 */
export async function readFileInto(
  cache: ReadCache,
  key: string,
  offset: number,
  into: Uint8Array,
  { signal, mayBlock }: TransferOptions = {},
): Promise<void> {
  signal?.throwIfAborted();
  // A key in the cache was checked when its file was opened.
  const file = takeCached(cache, key) ?? (await openFile(cache, checkKey(key)));
  try {
    for (let done = 0; done < into.byteLength; ) {
      const count =
        mayBlock === true
          ? readHere(file.fd, into, done, offset + done)
          : await readOnce(file.fd, into, done, offset + done);
      if (count === 0) throw shortRead(cache.root.path, key, offset, done, into.byteLength);
      done += count;
    }
  } finally {
    giveBack(cache, file);
  }
}

/** Closes the descriptor of a key's file, now or when its last reader is done. */
export function forgetFile(cache: ReadCache, key: string): void {
  const file = cache.files.get(key);
  if (file === undefined) return;
  cache.files.delete(key);
  file.isRetired = true;
  if (file.users === 0) closeSync(file.fd);
}

function takeCached(cache: ReadCache, key: string): OpenFile | undefined {
  const file = cache.files.get(key);
  if (file === undefined) return undefined;
  const now = statSync(file.path, { bigint: true, throwIfNoEntry: false });
  if (now === undefined || !isSameFile(now, file.stats)) {
    forgetFile(cache, key);
    return undefined;
  }
  cache.files.delete(key);
  cache.files.set(key, file);
  file.users += 1;
  return file;
}

function isSameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.ino === b.ino && a.dev === b.dev && a.size === b.size && a.mtimeNs === b.mtimeNs;
}

async function openFile(cache: ReadCache, key: string): Promise<OpenFile> {
  const path = await locate(cache.root, key);
  if (path === undefined) throw objectMissing(cache.root.path, key);
  const fd = await openDescriptor(path);
  const stats = fstatSync(fd, { bigint: true });
  if (!stats.isFile()) {
    closeSync(fd);
    throw objectMissing(cache.root.path, key);
  }
  const file: OpenFile = { path: join(cache.root.path, key), fd, stats, users: 1, isRetired: false, isRecent: true };
  // Two readers may open the same file at once; the later descriptor stays cached, the earlier closes after use.
  forgetFile(cache, key);
  cache.files.set(key, file);
  return file;
}

function openDescriptor(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, OPEN_FLAGS, (error, fd) => (error === null ? resolve(fd) : reject(error)));
  });
}

function readHere(fd: number, into: Uint8Array, start: number, position: number): number {
  return readSync(fd, into, start, Math.min(into.byteLength - start, CALL_BYTES_MAX), position);
}

function readOnce(fd: number, into: Uint8Array, start: number, position: number): Promise<number> {
  const count = Math.min(into.byteLength - start, CALL_BYTES_MAX);
  return new Promise((resolve, reject) => {
    read(fd, into, start, count, position, (error, got) => (error === null ? resolve(got) : reject(error)));
  });
}

function giveBack(cache: ReadCache, file: OpenFile): void {
  file.users -= 1;
  file.isRecent = true;
  if (file.isRetired) {
    if (file.users === 0) closeSync(file.fd);
    return;
  }
  if (cache.files.size > OPEN_FILES_MAX) {
    const oldest = [...cache.files].find(([, candidate]) => candidate.users === 0);
    if (oldest !== undefined) forgetFile(cache, oldest[0]);
  }
  cache.timer ??= setTimeout(closeIdle, IDLE_MS, cache).unref();
}

function closeIdle(cache: ReadCache): void {
  cache.timer = undefined;
  for (const [key, file] of [...cache.files]) {
    if (file.users === 0 && !file.isRecent) forgetFile(cache, key);
    file.isRecent = false;
  }
  if (cache.files.size > 0) cache.timer = setTimeout(closeIdle, IDLE_MS, cache).unref();
}
