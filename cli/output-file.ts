// Writing a file that a command was asked for besides its result: a page that it draws, a plan to be edited.
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

/** What can be known before the work: the folder is there, and no folder is in the file's place. As above. */
export async function checkOutputFile(name: string, { cwd }: Place): Promise<void> {
  const file = path.resolve(cwd, name);
  await guard(file, () => access(path.dirname(file), constants.W_OK));
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
