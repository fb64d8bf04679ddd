// Makes `dist/`, the command line in a few files: it starts in half the processor time of the sources, which Node loads
// one by one. `npm ci` runs it; cli/mergeyard.mjs uses what it made until a source is changed.
//
//   npm run build
import { writeFileSync } from "node:fs";
import path from "node:path";
import { type Bundle, bundle } from "./bundle.ts";

/** The command line, and what it starts by its path: the jobs of a local yard and the threads of a merge. */
const ENTRIES = { main: "cli/main.ts", worker: "workers/main.ts", thread: "workers/thread.ts" };

/** Writes the folder anew, which must be beside `cli/`. */
export async function buildCommandLine(folder: string): Promise<Bundle> {
  const made = await bundle(ENTRIES, folder);
  // The last file: a folder without it is unfinished, and a source younger than it was changed since.
  writeFileSync(path.join(folder, "sources.json"), `${JSON.stringify(made.sources, undefined, 1)}\n`);
  return made;
}

if (import.meta.main) {
  const { files, sources } = await buildCommandLine(path.resolve(import.meta.dirname, "../dist"));
  console.log(`dist: ${files.length} files of ${sources.length} sources`);
}
