// Folders for tests of formats: from a directory on disk, or made of bytes in memory.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { FolderReader } from "../../../core/checkpoint.ts";

/** Reads of a folder are counted, so that a test can say how many were needed. */
export type CountingFolder = FolderReader & { reads: { file: string; offset: number; bytes: number }[] };

/** A folder whose files are these bytes or texts. */
export function memoryFolder(files: Readonly<Record<string, Uint8Array | string>>): CountingFolder {
  const contents = new Map(Object.entries(files).map(([name, content]) => [name, encode(content)]));
  const reads: CountingFolder["reads"] = [];
  return {
    reads,
    files: [...contents].map(([name, content]) => ({ name, bytes: content.length })),
    async read(file, offset, bytes) {
      reads.push({ file, offset, bytes });
      const content = contents.get(file);
      if (content === undefined || offset + bytes > content.length) {
        throw new RangeError(`read past the end of ${file}: ${offset} + ${bytes} of ${content?.length}`);
      }
      return content.slice(offset, offset + bytes);
    },
  };
}

/** The files of a directory and of those below it. */
export function diskFolder(root: string): CountingFolder {
  const names = readdirSync(root, { recursive: true, encoding: "utf8" });
  const files = names.filter((name) => statSync(join(root, name)).isFile());
  return memoryFolder(Object.fromEntries(files.map((name) => [name, new Uint8Array(readFileSync(join(root, name)))])));
}

function encode(content: Uint8Array | string): Uint8Array {
  return typeof content === "string" ? new TextEncoder().encode(content) : content;
}
