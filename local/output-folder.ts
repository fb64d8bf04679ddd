// The folder that a command makes: filled under another name beside its place, and renamed there when it is whole, so
// that nobody ever sees half of it. What is there already is refused, unless it is a former output and may go.
import { randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, readFile, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import * as z from "zod";
import { RESERVED_SEGMENT } from "../core/artifact/key.ts";
import { MANIFEST_FILE, parseManifest } from "../core/artifact/manifest.ts";
import { parseUniversal, UNIVERSAL_FILE } from "../core/artifact/universal.ts";
import { isVerdict, MergeyardError } from "../core/error.ts";
import { parseJson } from "../core/json.ts";
import { compareUtf8 } from "../core/utf8-order.ts";
import { guardFile, makeFolders } from "../stores/directory-paths.ts";

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
const FORMER = ".former";
const SCRATCH = "stages";
const FOREIGN_HINT =
  "choose another folder, or remove this one; --force replaces a former output that has a manifest.json or a " +
  "universal.json or was itself made with --force, and that holds nothing else";

/**
 * What `force` leaves in a folder that says by no document of its own that we made it; in the area that no store lists.
 */
const RECORD = `${RESERVED_SEGMENT}/output.json`;
const recordSchema = z.strictObject({
  output: z.literal(1),
  /** All others, by their paths. */
  files: z.array(z.strictObject({ name: z.string(), bytes: z.int().nonnegative() })),
});

/**
 * Begins a folder that will be at `target` (absolute). Throws CliOutputOccupied when something is there: an empty
 * folder is fine, and with `force` a former output of ours: one that holds nothing but the files that a document of
 * ours in it lists, each of the size that it says. What the file system refuses, here and when it is committed, is an
 * error of a store.
 */
export async function beginOutputFolder(target: string, options: { readonly force: boolean }): Promise<OutputFolder> {
  const [parent, name] = [path.dirname(target), path.basename(target)];
  const partial = await guardFile(parent, name, async () => {
    await checkPlace(target, options.force);
    // Node's own recursive mkdir tries for ever where a file system answers that what is to be made is not there.
    await makeFolders(parent);
    await sweepAbandoned(parent, name);
    await checkPlace(target, options.force); // which may have come back
    const nonce = randomBytes(4).toString("hex");
    const begun = path.join(parent, `${partialPrefix(name)}${process.pid}-${nonce}`);
    await mkdir(begun);
    return begun;
  });
  const commit = async (): Promise<void> => {
    await rm(path.join(partial, SCRATCH), { recursive: true, force: true });
    if (options.force) await writeRecord(partial);
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

/**
 * Removes what killed commands of this machine left beside the target: their process is gone, so nobody fills it. A
 * former output that was to be replaced at that moment gets its place back.
 */
async function sweepAbandoned(parent: string, name: string): Promise<void> {
  const prefix = partialPrefix(name);
  const isOut = (await listEntries(path.join(parent, name))) === undefined;
  for (const entry of await readdir(parent)) {
    const pid = entry.startsWith(prefix) ? Number(/^\d+/.exec(entry.slice(prefix.length))?.[0]) : Number.NaN;
    if (!Number.isInteger(pid) || isRunning(pid)) continue;
    if (isOut && entry.endsWith(FORMER)) await rename(path.join(parent, entry), path.join(parent, name));
    else await rm(path.join(parent, entry), { recursive: true, force: true });
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

async function checkPlace(target: string, force: boolean): Promise<void> {
  const entries = await listEntries(target);
  if (entries === undefined || entries.length === 0) return;
  const foreign = await findForeign(target);
  const where = { file: target };
  if (foreign !== undefined) {
    throw new MergeyardError("CliOutputOccupied", {
      where,
      found: foreign,
      expected: "an empty folder, or none",
      hint: FOREIGN_HINT,
    });
  }
  if (!force) {
    const hint = "add --force to replace this former output, or choose another folder";
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

/** A file that no document of the folder lists as it is; undefined when there is none: then it is a former output. */
async function findForeign(target: string): Promise<string | undefined> {
  return findUnlisted(await listFiles(target), await readListed(target))?.name;
}

type FileEntry = { readonly name: string; readonly bytes: number };

function findUnlisted(files: readonly FileEntry[], listed: ReadonlyMap<string, number>): FileEntry | undefined {
  return files.find(({ name, bytes }) => listed.get(name) !== bytes);
}

/** Every file below a folder, and what is neither a file nor a folder that holds one, by its path with `/`. */
async function listFiles(folder: string): Promise<readonly FileEntry[]> {
  const files: FileEntry[] = [];
  const walk = async (inside: string): Promise<void> => {
    const entries = await readdir(path.join(folder, inside), { withFileTypes: true });
    for (const entry of entries.sort((a, b) => compareUtf8(a.name, b.name))) {
      const name = `${inside}${entry.name}`;
      const before = files.length;
      if (entry.isDirectory()) await walk(`${name}/`);
      if (files.length > before) continue;
      files.push({ name, bytes: entry.isFile() ? (await lstat(path.join(folder, name))).size : -1 });
    }
  };
  await walk("");
  return files;
}

type Document = { readonly name: string; readonly list: (bytes: Buffer) => readonly FileEntry[] | undefined };

/** What lists the files of a folder that we made. */
const DOCUMENTS: readonly Document[] = [
  { name: MANIFEST_FILE, list: (bytes) => parseManifest(bytes)?.files },
  {
    name: UNIVERSAL_FILE,
    list(bytes) {
      const { files, sideFiles } = parseUniversal(bytes, UNIVERSAL_FILE);
      return [...files, ...sideFiles];
    },
  },
  { name: RECORD, list: (bytes) => recordSchema.safeParse(parseJson(bytes)).data?.files },
];

/** Sizes of the files that documents of ours list, and of themselves, by name. */
async function readListed(folder: string): Promise<ReadonlyMap<string, number>> {
  const listed = new Map<string, number>();
  for (const { name, list } of DOCUMENTS) {
    const bytes = await readFile(path.join(folder, name)).catch(() => undefined);
    if (bytes === undefined) continue;
    try {
      const files = list(bytes);
      if (files !== undefined)
        for (const file of [{ name, bytes: bytes.length }, ...files]) listed.set(file.name, file.bytes);
    } catch (cause) {
      // Another tool's document, or a damaged one: what it lists is somebody else's.
      if (!isVerdict(cause)) throw cause;
    }
  }
  return listed;
}

/** Lists the files of a folder that no other document lists, so that it is known again. */
async function writeRecord(folder: string): Promise<void> {
  const files = await listFiles(folder);
  if (findUnlisted(files, await readListed(folder)) === undefined) return;
  const record = { output: 1, files };
  await mkdir(path.dirname(path.join(folder, RECORD)), { recursive: true });
  await writeFile(path.join(folder, RECORD), `${JSON.stringify(record, null, 1)}\n`);
}

/** Renames `source` to `target`; a former output goes only after the new one stands in its place. */
async function replaceFolder(source: string, target: string): Promise<void> {
  const entries = await listEntries(target);
  if (entries === undefined) return rename(source, target);
  if (entries.length === 0) {
    await rmdir(target);
    return rename(source, target);
  }
  const former = `${source}${FORMER}`;
  await rename(target, former);
  try {
    await rename(source, target);
  } catch (error) {
    await rename(former, target);
    throw error;
  }
  await rm(former, { recursive: true, force: true });
}
