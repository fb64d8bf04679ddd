// The folder that a command makes: filled under another name beside its place, and renamed there when it is whole, so
// that nobody ever sees half of it. What is there already is refused, unless it is a former output and may go.
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, rmdir } from "node:fs/promises";
import { hostname } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { MANIFEST_FILE, parseManifest } from "../core/artifact/manifest.ts";
import { MergeyardError } from "../core/error.ts";
import { guardFile } from "../stores/directory-paths.ts";

/** A folder being filled. */
export type OutputFolder = {
  /** Absolute path to fill. */
  readonly path: string;
  /** Name of a folder in it for what is needed only until it is whole. */
  readonly scratch: string;
  /** Puts the folder in its place. */
  commit(): Promise<void>;
  /** Takes away what was filled, for an error; nothing else was touched. Returns the error, as one of the target. */
  discard(error: unknown): Promise<unknown>;
};

const PARTIAL = ".partial-";
const SCRATCH = "stages";

/**
 * Begins a folder that will be at `target` (absolute). Throws CliOutputOccupied when something is there: an empty
 * folder is fine, and with `force` a former output of ours that holds nothing but the files of its own manifest
 * (undefined: the command has no such option, since what it makes has no manifest). What the file system refuses, here
 * and when it is committed, is an error of a store.
 */
export async function beginOutputFolder(
  target: string,
  options: { readonly force: boolean | undefined },
): Promise<OutputFolder> {
  const [parent, name] = [path.dirname(target), path.basename(target)];
  const partial = await guardFile(parent, name, async () => {
    await checkPlace(target, options.force);
    await mkdir(parent, { recursive: true });
    await sweepAbandoned(parent, name);
    const nonce = randomBytes(4).toString("hex");
    const begun = path.join(parent, `${partialPrefix(name)}${process.pid}-${nonce}`);
    await mkdir(begun);
    return begun;
  });
  const commit = async (): Promise<void> => {
    await rm(path.join(partial, SCRATCH), { recursive: true, force: true });
    await checkPlace(target, options.force);
    await replaceFolder(partial, target);
  };
  return {
    path: partial,
    scratch: SCRATCH,
    commit: () => guardFile(parent, name, commit),
    async discard(error) {
      await rm(partial, { recursive: true, force: true });
      return speakOf(target, partial, error);
    },
  };
}

/** The error with the place that the user named, where it has that of the folder that is gone. */
function speakOf(target: string, partial: string, error: unknown): unknown {
  if (!(error instanceof MergeyardError)) return error;
  const [uri, partialUri] = [pathToFileURL(target).href, pathToFileURL(partial).href];
  const name = (text: string | undefined) => text?.replace(partialUri, () => uri).replace(partial, () => target);
  const { code, where, found, expected, hint, cause } = error;
  const place = { ...where, store: name(where.store), file: name(where.file) };
  return new MergeyardError(code, { where: place, found: name(found), expected: name(expected), hint, cause });
}

function partialPrefix(name: string): string {
  return `.${name}${PARTIAL}${hostname()}-`;
}

/** Removes what killed commands of this machine left beside the target: their process is gone, so nobody fills it. */
async function sweepAbandoned(parent: string, name: string): Promise<void> {
  const prefix = partialPrefix(name);
  for (const entry of await readdir(parent)) {
    const pid = entry.startsWith(prefix) ? Number(/^\d+/.exec(entry.slice(prefix.length))?.[0]) : Number.NaN;
    if (Number.isInteger(pid) && !isRunning(pid)) await rm(path.join(parent, entry), { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // Not ours to signal, but there.
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

async function checkPlace(target: string, force: boolean | undefined): Promise<void> {
  const entries = await listEntries(target);
  if (entries === undefined || entries.length === 0) return;
  const foreign = await findForeignEntry(target, entries);
  const where = { file: target };
  if (foreign !== undefined) {
    throw new MergeyardError("CliOutputOccupied", {
      where,
      found: foreign,
      expected: "an empty folder, or none",
      hint:
        force === undefined ? undefined : "choose another folder; only a former output of Mergeyard is ever replaced",
    });
  }
  if (force !== true) {
    const hint = force === false ? "add --force to replace this former output, or choose another folder" : undefined;
    throw new MergeyardError("CliOutputOccupied", { where, found: "a former output", hint });
  }
}

/** Undefined when there is nothing. Throws CliOutputOccupied for what is no folder. */
async function listEntries(target: string): Promise<readonly string[] | undefined> {
  try {
    return await readdir(target);
  } catch (cause) {
    if (!(cause instanceof Error) || !("code" in cause)) throw cause;
    if (cause.code === "ENOENT") return undefined;
    if (cause.code !== "ENOTDIR") throw cause;
    throw new MergeyardError("CliOutputOccupied", { where: { file: target }, found: "a file", expected: "a folder" });
  }
}

/** An entry that is not of the folder's own manifest; undefined when all are: then it is a former output. */
async function findForeignEntry(target: string, entries: readonly string[]): Promise<string | undefined> {
  const names = await readManifestNames(target);
  const folders = new Set([...names].filter((name) => name.includes("/")).map((name) => name.split("/")[0]));
  for (const entry of entries) {
    if (names.has(entry)) continue;
    if (!folders.has(entry)) return entry;
    const inside = (await listEntries(path.join(target, entry))) ?? [];
    const foreign = inside.map((name) => `${entry}/${name}`).find((name) => !names.has(name));
    if (foreign !== undefined) return foreign;
  }
  return undefined;
}

async function readManifestNames(target: string): Promise<ReadonlySet<string>> {
  try {
    const manifest = parseManifest(await readFile(path.join(target, MANIFEST_FILE)));
    return new Set(manifest === undefined ? [] : [MANIFEST_FILE, ...manifest.files.map(({ name }) => name)]);
  } catch {
    // No manifest, or none of ours: every entry is somebody else's.
    return new Set();
  }
}

/** Renames `source` to `target`; a former output goes only after the new one stands in its place. */
async function replaceFolder(source: string, target: string): Promise<void> {
  const entries = await listEntries(target);
  if (entries === undefined) return rename(source, target);
  if (entries.length === 0) {
    await rmdir(target);
    return rename(source, target);
  }
  const former = `${source}.former`;
  await rename(target, former);
  try {
    await rename(source, target);
  } catch (error) {
    await rename(former, target);
    throw error;
  }
  await rm(former, { recursive: true, force: true });
}
