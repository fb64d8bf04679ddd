// Paths of a folder store: from key to file, never out of the root. Symbolic links inside the root are followed only to
// places inside it (a link out would let an upload read or replace any file of this machine). The one exception is the
// layout of the Hugging Face cache, `models--x/snapshots/<commit>/`, whose files are links into `models--x/blobs/`.
import { lstatSync, realpathSync } from "node:fs";
import { mkdir, open, realpath } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { type ErrorCode, MergeyardError } from "../core/error.ts";

export type Root = {
  readonly path: string;
  /** Where the root really is, and the blobs folder of a cache snapshot; set once the root exists. */
  allowed: readonly string[] | undefined;
};

const CODE_OF_ERRNO: Readonly<Record<string, ErrorCode>> = Object.freeze({
  ENOSPC: "StoreFull",
  EDQUOT: "StoreFull",
  EFBIG: "StoreFull",
  EACCES: "StoreAccessDenied",
  EPERM: "StoreAccessDenied",
  EROFS: "StoreAccessDenied",
  ENOTDIR: "StorePathOccupied",
  EISDIR: "StorePathOccupied",
  EEXIST: "StorePathOccupied",
  ENOTEMPTY: "StorePathOccupied",
  ELOOP: "StoreLinkRefused",
  ENAMETOOLONG: "StoreKeyInvalid",
  ENOENT: "StoreObjectMissing",
  ENXIO: "StoreObjectMissing",
  EMFILE: "StoreUnavailable",
  ENFILE: "StoreUnavailable",
  EAGAIN: "StoreUnavailable",
  EBUSY: "StoreUnavailable",
  ESTALE: "StoreUnavailable",
  ETIMEDOUT: "StoreUnavailable",
});

/** The operating system's name of the failure, such as ENOSPC; undefined for any other error. */
export function errnoOf(error: unknown): string | undefined {
  const isSystemError = error instanceof Error && "code" in error && "syscall" in error;
  return isSystemError && typeof error.code === "string" ? error.code : undefined;
}

/** A file system error as a MergeyardError; anything else (assertions, aborts, our own errors) unchanged. */
export function toFileError(error: unknown, store: string, key: string): unknown {
  const errno = errnoOf(error);
  if (errno === undefined) return error;
  const code = CODE_OF_ERRNO[errno] ?? "StoreFailed";
  return new MergeyardError(code, { where: { store, file: key }, found: errno, cause: error });
}

/** Runs a file operation; its system errors become MergeyardErrors that name store and key. */
export async function guardFile<T>(store: string, key: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw toFileError(error, store, key);
  }
}

/** For a file operation's `catch`: undefined when there is no file, every other error as it is. */
export function undefinedWhenAbsent(error: unknown): undefined {
  const errno = errnoOf(error);
  if (errno !== "ENOENT" && errno !== "ENOTDIR") throw error;
  return undefined;
}

/** The real path of a key's file; undefined when there is none. Throws StoreLinkRefused. */
export async function locate(root: Root, key: string): Promise<string | undefined> {
  const real = await realpath(join(root.path, key)).catch(undefinedWhenAbsent);
  return real === undefined ? undefined : checkInside(root, real, key);
}

/**
 * The path at which a key's file is to appear, its folder made if need be (and made durable when asked). The folder is
 * looked at before it is made, so that a link out of the root is refused rather than written through.
 */
export async function prepareTarget(root: Root, key: string, durable: boolean): Promise<string> {
  const folder = dirname(join(root.path, key));
  const found = await nearestExisting(root, folder);
  if (found.path !== undefined) checkInside(root, found.path, key);
  if (!found.isWhole) {
    const first = await makeFolders(folder);
    if (durable && first !== undefined) await syncNewFolders(first, folder);
  }
  return join(root.path, key);
}

async function nearestExisting(root: Root, folder: string): Promise<{ path: string | undefined; isWhole: boolean }> {
  for (let path = folder; path.length >= root.path.length; path = dirname(path)) {
    try {
      return { path: await realpath(path), isWhole: path === folder };
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") throw error;
    }
    if (path === root.path) break;
  }
  return { path: undefined, isWhole: false };
}

/** Times that a folder is made again because another process removed it, empty, under our feet. */
export const REMAKE_MAX = 200;

/**
 * Makes a folder and those above it; the topmost that was missing. Others may remove empty ones at the same time, which
 * Node's own recursive mkdir mistakes for a file in the way.
 */
export async function makeFolders(path: string): Promise<string | undefined> {
  let first: string | undefined;
  for (let attempt = 1; ; attempt++) {
    try {
      await mkdir(path);
      return first ?? path;
    } catch (error) {
      if (errnoOf(error) === "EEXIST") return first;
      if (errnoOf(error) !== "ENOENT" || attempt >= REMAKE_MAX) throw error;
    }
    first = (await makeFolders(dirname(path))) ?? first;
  }
}

async function syncNewFolders(first: string, last: string): Promise<void> {
  for (let path = last; path.length >= first.length; path = dirname(path)) await syncFolder(dirname(path));
}

/**
 * Makes the entries of a folder durable: without it a rename may be undone by a power cut. A folder that is gone has
 * been emptied and removed by someone else, whose business its durability is.
 */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r").catch(undefinedWhenAbsent);
  try {
    await handle?.sync();
  } finally {
    await handle?.close();
  }
}

/** The real path itself, when it is inside the root. Throws StoreLinkRefused. */
export function checkInside(root: Root, real: string, key: string): string {
  root.allowed ??= allowedRoots(realpathSync(root.path));
  const isInside = root.allowed.some((allowed) => real === allowed || real.startsWith(withSeparator(allowed)));
  if (!isInside) throw new MergeyardError("StoreLinkRefused", { where: { store: root.path, file: key }, found: real });
  return real;
}

function withSeparator(path: string): string {
  return path.endsWith(sep) ? path : path + sep;
}

function allowedRoots(real: string): readonly string[] {
  const parent = dirname(real);
  const blobs = join(dirname(parent), "blobs");
  const isSnapshot = basename(parent) === "snapshots" && lstatSync(blobs, { throwIfNoEntry: false })?.isDirectory();
  return isSnapshot ? [real, blobs] : [real];
}
