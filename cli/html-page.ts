// Writing the HTML page of a command that draws one, after its work is done.
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { MergeyardError } from "../core/error.ts";
import { errnoOf } from "../stores/directory-paths.ts";
import type { Terminal } from "./terminal.ts";

/** Writes the page, in place of one that is there; resolves to its absolute path. Throws CliPageNotWritten. */
export async function writePage(name: string, page: string, { cwd }: Pick<Terminal, "cwd">): Promise<string> {
  const file = path.resolve(cwd, name);
  try {
    await writeFile(file, page);
  } catch (error) {
    const found = errnoOf(error);
    if (found === undefined) throw error;
    throw new MergeyardError("CliPageNotWritten", { where: { file }, found, cause: error });
  }
  return file;
}
