// Names of files in a checkpoint's or artifact's folder. Indexes, manifests and universal checkpoints name files, and
// what they name is read from and written into folders, so a name must never be able to leave its folder.
import * as z from "zod";
import { FOLDER_LIMITS } from "../limits.ts";

/**
 * True for a name of one file: no directory, not `.` or `..`, no control characters, at most 255 bytes of UTF-8.
 * A backslash is refused because it separates directories elsewhere.
 */
export function isPlainFileName(name: string): boolean {
  if (name === "" || name === "." || name === ".." || /[/\\\p{Cc}]/u.test(name)) return false;
  return name.isWellFormed() && new TextEncoder().encode(name).length <= FOLDER_LIMITS.nameBytes;
}

/** True for a plain name, or one in a folder with a plain name: what a version's folder may hold. */
export function isListedName(name: string): boolean {
  const parts = name.split("/");
  return parts.length <= 2 && parts.every(isPlainFileName);
}

export const fileNameSchema = z.string().refine(isPlainFileName, "a file name without directories");

export const listedNameSchema = z.string().refine(isListedName, "a file name, in one folder at most");
