// How a file becomes visible in a folder store: written under `.mergeyard/tmp/`, made durable, then linked (create) or
// renamed (everything else) to its key, then its folder made durable. A failure before the link or rename leaves
// nothing visible, and the temporary file is removed; those of killed processes are removed when they are a day old
// by the next process that writes. A store that is not durable (a plain output folder) skips the fsyncs and leaves no
// `.mergeyard`.
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, type FileHandle, link, lstat, open, readdir, rename, rmdir, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { RESERVED_SEGMENT } from "../core/artifact/key.ts";
import { MergeyardError } from "../core/error.ts";
import {
  errnoOf,
  makeFolders,
  prepareTarget,
  REMAKE_MAX,
  type Root,
  syncFolder,
  undefinedWhenAbsent,
} from "./directory-paths.ts";

/** A folder store's settings and the state it shares between calls. */
export type Area = {
  readonly root: Root;
  readonly durable: boolean;
  /** False where the file system has no hard links: then `create` uses the lock, and `copy` copies. */
  readonly hasLinks: boolean;
  isSwept: boolean;
};

/** Age at which the temporary file of a writer that shows no life is removed; every write to it starts the age anew. */
const ABANDONED_MS = 24 * 3600 * 1000;
/** Link failures that mean "not on this file system, or not this file", after which a real copy is made. */
const NO_LINK = ["EPERM", "EXDEV", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EACCES"];

export function lockFolder(root: Root): string {
  return join(root.path, RESERVED_SEGMENT, "locks");
}

/** Opens a new temporary file for writing. The caller closes it and removes or publishes the file. */
export async function createTemporary(area: Area): Promise<{ name: string; path: string; handle: FileHandle }> {
  const folder = join(area.root.path, RESERVED_SEGMENT, "tmp");
  const name = randomUUID();
  const path = join(folder, name);
  const handle = await createFile(folder, path);
  if (!area.isSwept) {
    area.isSwept = true;
    // The new file tells the time as the file system has it, which may be another machine's.
    await sweepAbandoned(folder, (await handle.stat()).mtimeMs);
  }
  return { name, path, handle };
}

async function createFile(folder: string, path: string): Promise<FileHandle> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await open(path, "wx");
    } catch (error) {
      if (errnoOf(error) !== "ENOENT" || attempt >= REMAKE_MAX) throw error;
      await makeFolders(folder);
    }
  }
}

async function sweepAbandoned(folder: string, nowMs: number): Promise<void> {
  const names = (await readdir(folder).catch(undefinedWhenAbsent)) ?? [];
  for (const name of names) {
    const path = join(folder, name);
    const stats = await lstat(path).catch(undefinedWhenAbsent);
    if (stats !== undefined && nowMs - stats.mtimeMs > ABANDONED_MS) await removeFile(path);
  }
}

/** Writes a whole small file under a temporary name, durable when asked; removes it again when that fails. */
export async function writeTemporary(area: Area, bytes: Uint8Array): Promise<string> {
  const { path, handle } = await createTemporary(area);
  try {
    try {
      await handle.writeFile(bytes);
      if (area.durable) await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    await discardTemporary(area, path);
    throw error;
  }
  return path;
}

/** Links a temporary file to its key; false when something is there already. */
export async function publishNew(area: Area, temporary: string, key: string): Promise<boolean> {
  return atTarget(area, temporary, key, async (target) => {
    try {
      await link(temporary, target);
      return true;
    } catch (error) {
      if (errnoOf(error) === "EEXIST") return false;
      throw error;
    }
  });
}

/** Renames a temporary file to its key, over whatever file is there. */
export async function publishOver(area: Area, temporary: string, key: string): Promise<void> {
  await atTarget(area, temporary, key, async (target) => {
    await rename(temporary, target);
    return true;
  });
}

async function atTarget(
  area: Area,
  temporary: string,
  key: string,
  publish: (target: string) => Promise<boolean>,
): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    const target = await prepareTarget(area.root, key, area.durable).catch((error: unknown) => {
      if (errnoOf(error) === "ENOENT" && attempt < REMAKE_MAX) return undefined;
      throw error;
    });
    if (target === undefined) continue;
    try {
      const isPublished = await publish(target);
      if (isPublished && area.durable) await syncFolder(dirname(target));
      return isPublished;
    } catch (error) {
      if (errnoOf(error) !== "ENOENT" || attempt >= REMAKE_MAX) throw error;
      if ((await lstat(temporary).catch(undefinedWhenAbsent)) === undefined) {
        throw new MergeyardError("StoreTicketInvalid", { where: { store: area.root.path, file: key }, cause: error });
      }
    }
  }
}

/** A second name for a file under a temporary path: a hard link, else a reflink, else a copy. */
export async function duplicateFile(area: Area, source: string): Promise<string> {
  const { path, handle } = await createTemporary(area);
  try {
    await handle.close();
    if (area.hasLinks && (await tryLink(source, path))) return path;
    await copyFile(source, path, constants.COPYFILE_FICLONE);
    if (area.durable) await syncFile(path);
    return path;
  } catch (error) {
    await discardTemporary(area, path);
    throw error;
  }
}

/** Replaces the placeholder at `path` by a link to `source`; false when the file system refuses. */
async function tryLink(source: string, path: string): Promise<boolean> {
  const beside = `${path}.link`;
  try {
    await link(source, beside);
  } catch (error) {
    if (NO_LINK.includes(errnoOf(error) ?? "")) return false;
    throw error;
  }
  await rename(beside, path);
  return true;
}

export async function syncFile(path: string): Promise<void> {
  const handle = await open(path, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Removes a temporary file, and the store's own folders when the store is to leave no trace and they are empty. */
export async function discardTemporary(area: Area, path: string): Promise<void> {
  await removeFile(path);
  await tidyArea(area);
}

/** In a plain output folder, removes `.mergeyard` once nobody uses it. */
export async function tidyArea(area: Area): Promise<void> {
  if (area.durable) return;
  const own = join(area.root.path, RESERVED_SEGMENT);
  for (const folder of [join(own, "tmp"), lockFolder(area.root), own]) {
    await rmdir(folder).catch(() => undefined);
  }
}

/** Removes a file; no error when it is gone already. */
async function removeFile(path: string): Promise<void> {
  await unlink(path).catch(undefinedWhenAbsent);
}

/** Removes the folders above a deleted key that are empty now, up to but without the root. */
export async function pruneFolders(area: Area, key: string): Promise<void> {
  const root = area.root.path;
  for (let folder = dirname(join(root, key)); folder.length > root.length; folder = dirname(folder)) {
    try {
      await rmdir(folder);
    } catch {
      return;
    }
  }
}
