// The object store in a folder, the embedded default: one file per object, written atomically and durably, safe with
// many processes on it. `.mergeyard/` under the root is its own area (temporary files, locks) and is never an object.
// A folder that is only read (a user's model) is never written to, not even for bookkeeping. Its parts: paths and
// links (directory-paths.ts), temporary files (-temp), locks (-lock), regions (-regions), reads (-reads), listing
// (-list).
import assert from "node:assert/strict";
import { lstatSync, renameSync, unlinkSync, utimesSync } from "node:fs";
import { lstat, open, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { checkKey } from "../core/artifact/key.ts";
import { MergeyardError } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { describeFile, describeFileNow, etagOfFile, listFiles } from "./directory-list.ts";
import { underLock } from "./directory-lock.ts";
import {
  errnoOf,
  guardFile,
  locate,
  prepareTarget,
  syncFolder,
  toFileError,
  undefinedWhenAbsent,
} from "./directory-paths.ts";
import { createReadCache, forgetFile, OPEN_FLAGS, type ReadCache, readFileInto } from "./directory-reads.ts";
import {
  abortFileWrite,
  beginFileWrite,
  finishFileWrite,
  openFileRegion,
  recoverFileRegions,
} from "./directory-regions.ts";
import {
  type Area,
  discardTemporary,
  duplicateFile,
  lockFolder,
  pruneFolders,
  publishNew,
  publishOver,
  tidyArea,
  writeTemporary,
} from "./directory-temp.ts";
import { objectMissing, tooLarge } from "./errors.ts";
import type { CreateResult, ObjectInfo, ObjectStore, ReplaceResult, StoredObject } from "./store.ts";

export type DirectoryStoreOptions = {
  /**
   * True: files and folders are synced to the disk before a write returns. False: atomic only, and no trace is left.
   */
  readonly durable: boolean;
  /**
   * False for a file system without hard links (FAT, some network ones); found out by itself where that is possible.
   */
  readonly hardLinks?: boolean;
};

/** The store in a folder, which need not exist before the first write. Nothing is read or made here. */
export function createDirectoryStore(folder: string, options: DirectoryStoreOptions): ObjectStore {
  const root = { path: resolve(folder), allowed: undefined };
  const area: Area = { root, durable: options.durable, hasLinks: options.hardLinks ?? true, isSwept: false };
  const cache = createReadCache(root);
  const url = pathToFileURL(root.path);
  if (!options.durable) url.searchParams.set("durable", "false");
  const guard = <T>(key: string, signal: AbortSignal | undefined, operation: () => Promise<T>) => {
    return guardFile(root.path, key, async () => {
      signal?.throwIfAborted();
      return operation();
    });
  };
  return Object.freeze({
    uri: url.href,
    isLocal: true,
    head: (key, o) => guard(key, o?.signal, () => headObject(area, checkKey(key))),
    async readInto(key, offset, into, o) {
      assert.ok(Number.isSafeInteger(offset) && offset >= 0, `offset ${offset}`);
      // Called for every few hundred KiB that are read, as `write` below: no layers of promises here.
      try {
        await readFileInto(cache, key, offset, into, o);
      } catch (error) {
        throw toFileError(error, root.path, key);
      }
    },
    get: (key, limitBytes, o) => guard(key, o?.signal, () => getObject(area, checkKey(key), limitBytes)),
    list: (prefix, o) => listObjects(area, prefix, o?.signal),
    create: (key, bytes, o) => guard(key, o?.signal, () => createObject(area, checkKey(key), bytes, o?.signal)),
    replace: (key, bytes, etag, o) =>
      guard(key, o?.signal, () => replaceObject(area, checkKey(key), bytes, etag, o?.signal)),
    beginWrite: (key, bytes, regions, o) =>
      guard(key, o?.signal, () => beginFileWrite(area, checkKey(key), bytes, regions)),
    async openRegion(ticket, index, o) {
      const writer = await guard(ticket.key, o?.signal, () => openFileRegion(area, ticket, index, o?.mayBlock));
      return {
        async write(bytes) {
          try {
            o?.signal?.throwIfAborted();
            await writer.write(bytes);
          } catch (error) {
            throw toFileError(error, root.path, ticket.key);
          }
        },
        close: () => guard(ticket.key, undefined, () => writer.close()),
      };
    },
    finishWrite: (ticket, receipts, o) =>
      guard(ticket.key, o?.signal, async () => {
        await finishFileWrite(area, { ...ticket, key: checkKey(ticket.key) }, receipts);
        return presentObject(area, ticket.key);
      }),
    recoverRegions: (ticket, o) => guard(ticket.key, o?.signal, () => recoverFileRegions(area, ticket)),
    abortWrite: (ticket) => guard(ticket.key, undefined, () => abortFileWrite(area, ticket)),
    copy: (source, target, o) => guard(source, o?.signal, () => copyObject(area, checkKey(source), checkKey(target))),
    delete: (key, o) => guard(key, o?.signal, () => deleteObject(area, cache, checkKey(key), o?.signal)),
  } satisfies ObjectStore);
}

async function headObject(area: Area, key: string): Promise<ObjectInfo | undefined> {
  const path = await locate(area.root, key);
  return path === undefined ? undefined : describeFile(path, key).catch(undefinedWhenAbsent);
}

async function presentObject(area: Area, key: string): Promise<ObjectInfo> {
  const info = await headObject(area, key);
  if (info === undefined) throw objectMissing(area.root.path, key);
  return info;
}

async function getObject(area: Area, key: string, limitBytes: number): Promise<StoredObject | undefined> {
  const path = await locate(area.root, key);
  if (path === undefined || !(await stat(path)).isFile()) return undefined;
  const handle = await open(path, OPEN_FLAGS);
  try {
    const stats = await handle.stat({ bigint: true });
    if (stats.size > BigInt(limitBytes)) throw tooLarge(area.root.path, key, Number(stats.size), limitBytes);
    const bytes = await handle.readFile();
    if (bytes.byteLength > limitBytes) throw tooLarge(area.root.path, key, bytes.byteLength, limitBytes);
    return { bytes, etag: etagOfFile(stats, () => bytes) };
  } finally {
    await handle.close();
  }
}

async function* listObjects(area: Area, prefix: string, signal: AbortSignal | undefined): AsyncGenerator<ObjectInfo> {
  try {
    yield* listFiles(area.root, prefix, signal);
  } catch (error) {
    throw toFileError(error, area.root.path, prefix);
  }
}

async function createObject(area: Area, key: string, bytes: Uint8Array, signal?: AbortSignal): Promise<CreateResult> {
  checkSize(area, key, bytes);
  for (let attempt = 0; attempt < 8; attempt++) {
    const there = await lstat(join(area.root.path, key)).catch(undefinedWhenAbsent);
    if (there !== undefined) {
      const info = await headObject(area, key);
      if (info !== undefined) return { created: false, etag: info.etag };
      if (!there.isFile())
        throw new MergeyardError("StorePathOccupied", { where: { store: area.root.path, file: key } });
      continue;
    }
    const temporary = await writeTemporary(area, bytes);
    try {
      const stats = await lstat(temporary, { bigint: true });
      if (await publishAbsent(area, temporary, key, signal)) {
        return { created: true, etag: etagOfFile(stats, () => bytes) };
      }
    } finally {
      await discardTemporary(area, temporary);
    }
  }
  throw new MergeyardError("StoreConflict", { where: { store: area.root.path, file: key } });
}

/** Publishes under a key where nothing is; false when something is. Without hard links, under the key's lock. */
async function publishAbsent(area: Area, temporary: string, key: string, signal?: AbortSignal): Promise<boolean> {
  if (area.hasLinks) {
    try {
      return await publishNew(area, temporary, key);
    } catch (error) {
      if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(errnoOf(error) ?? "")) throw error;
    }
  }
  const target = await prepareTarget(area.root, key, area.durable);
  const place = () => {
    if (lstatSync(target, { throwIfNoEntry: false }) !== undefined) return false;
    renameSync(temporary, target);
    return true;
  };
  const isNew = await underLock(lockFolder(area.root), key, place, signal);
  if (isNew && area.durable) await syncFolder(dirname(target));
  return isNew;
}

async function replaceObject(
  area: Area,
  key: string,
  bytes: Uint8Array,
  etag: string,
  signal: AbortSignal | undefined,
): Promise<ReplaceResult> {
  checkSize(area, key, bytes);
  const before = await headObject(area, key);
  if (before === undefined || before.etag !== etag) return { replaced: false, etag: before?.etag ?? "" };
  const target = await prepareTarget(area.root, key, area.durable);
  const temporary = await writeTemporary(area, bytes);
  try {
    const swap = () => {
      const current = describeFileNow(target);
      if (current === undefined || current.etag !== etag) return { replaced: false, etag: current?.etag ?? "" };
      makeYounger(temporary, current.stats.mtimeNs);
      const own = describeFileNow(temporary);
      assert.ok(own !== undefined, "the temporary file is there");
      renameSync(temporary, target);
      return { replaced: true, etag: own.etag };
    };
    const result = await underLock(lockFolder(area.root), key, swap, signal);
    if (result.replaced && area.durable) await syncFolder(dirname(target));
    return result;
  } finally {
    await discardTemporary(area, temporary);
  }
}

/** Gives a replacement a later modification time than the file it replaces, so that their ETags differ. */
function makeYounger(path: string, olderNs: bigint): void {
  const stats = lstatSync(path, { bigint: true });
  if (stats.mtimeNs > olderNs) return;
  const seconds = Number(olderNs / 1000n + 2n) / 1e6;
  utimesSync(path, seconds, seconds);
}

async function copyObject(area: Area, sourceKey: string, targetKey: string): Promise<ObjectInfo> {
  const source = await locate(area.root, sourceKey);
  if (source === undefined || !(await stat(source)).isFile()) {
    throw objectMissing(area.root.path, sourceKey);
  }
  if (sourceKey !== targetKey) {
    const temporary = await duplicateFile(area, source);
    try {
      // Renaming one link of a file over another does nothing at all; the temporary name is removed below.
      await publishOver(area, temporary, targetKey);
    } finally {
      await discardTemporary(area, temporary);
    }
  }
  return presentObject(area, targetKey);
}

async function deleteObject(area: Area, cache: ReadCache, key: string, signal?: AbortSignal): Promise<void> {
  const path = join(area.root.path, key);
  const there = await lstat(path).catch(undefinedWhenAbsent);
  if (there === undefined || there.isDirectory()) return;
  // Through a link among the folders above, a key could name a file outside.
  await prepareTarget(area.root, key, false);
  const remove = () => {
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) unlinkSync(path);
  };
  await underLock(lockFolder(area.root), key, remove, signal);
  forgetFile(cache, key);
  if (area.durable) await syncFolder(dirname(path));
  await pruneFolders(area, key);
  await tidyArea(area);
}

function checkSize(area: Area, key: string, bytes: Uint8Array): void {
  const limit = STORE_LIMITS.conditionalBytes;
  if (bytes.byteLength > limit) throw tooLarge(area.root.path, key, bytes.byteLength, limit);
}
