// Writing a file that a command was asked for besides its result: a page that it draws, a plan to be edited.
import { existsSync } from "node:fs";
import { access, constants, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { MergeyardError } from "../core/error.ts";
import { errnoOf, undefinedWhenAbsent } from "../stores/directory-paths.ts";
import type { Terminal } from "./terminal.ts";

type Place = Pick<Terminal, "cwd">;

/** Writes the file, in place of one that is there; resolves to its absolute path. Throws CliFileNotWritten. */
export async function writeOutputFile(name: string, text: string, { cwd }: Place): Promise<string> {
  const file = path.resolve(cwd, name);
  await guard(file, () => writeFile(file, text));
  return file;
}

/**
 * What can be known before the work, which may take hours: the file's folder is there, unless it is `making`, which the
 * work makes, and no folder is in the file's place. As above; nothing where no file is asked for.
 */
export async function checkOutputFile(name: string | undefined, { cwd }: Place, making?: string): Promise<void> {
  if (name === undefined) return;
  const file = path.resolve(cwd, name);
  const folder = path.dirname(file);
  const isMade = making !== undefined && folder === path.resolve(cwd, making);
  if (isMade && !existsSync(folder)) return;
  // The separator: a file in the place of the folder is none.
  await guard(file, () => access(folder + path.sep, constants.W_OK));
  const there = await guard(file, () => stat(file).catch(undefinedWhenAbsent));
  if (there?.isDirectory()) throw new MergeyardError("CliFileNotWritten", { where: { file }, found: "EISDIR" });
}

async function guard<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const found = errnoOf(error);
    if (found === undefined) throw error;
    throw new MergeyardError("CliFileNotWritten", { where: { file }, found, cause: error });
  }
}
