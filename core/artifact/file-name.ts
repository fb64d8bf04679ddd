// Names of files in a checkpoint's or artifact's folder. Indexes, manifests and universal checkpoints name files, and
// what they name is read from and written into folders, so a name must never be able to leave its folder.
import { z } from "zod";
import { FOLDER_LIMITS } from "../limits.ts";

/**
 * True for a name of one file: no directory, not `.` or `..`, no control characters, at most 255 bytes of UTF-8.
 * A backslash is refused because it separates directories elsewhere.
 */
export function isPlainFileName(name: string): boolean {
  if (name === "" || name === "." || name === ".." || /[/\\\p{Cc}]/u.test(name)) return false;
  return name.isWellFormed() && new TextEncoder().encode(name).length <= FOLDER_LIMITS.nameBytes;
}

export const fileNameSchema = z.string().refine(isPlainFileName, "a file name without directories");
