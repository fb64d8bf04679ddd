// Makes the folder that the worker's image is built from: the Dockerfile, and `worker/` with everything that a worker
// loads, in a few files that need no node_modules. The CDK app runs it at synthesis; it needs neither Docker nor
// network.
//
//   node tools/bundle-worker.ts FOLDER
import { copyFileSync, rmSync } from "node:fs";
import path from "node:path";
import { bundle } from "./bundle.ts";

/** What is started by its path: the job, and the threads of its executor. */
const ENTRIES = { main: "workers/main.ts", thread: "workers/thread.ts" };

/** Writes the folder anew; returns the paths in it. */
export async function bundleWorker(folder: string): Promise<readonly string[]> {
  rmSync(folder, { recursive: true, force: true });
  const { files } = await bundle(ENTRIES, path.join(folder, "worker"));
  copyFileSync(path.resolve(import.meta.dirname, "../workers/Dockerfile"), path.join(folder, "Dockerfile"));
  return [...files.map((file) => `worker/${file}`), "Dockerfile"].sort();
}

if (import.meta.main) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) {
    console.error("usage: node tools/bundle-worker.ts FOLDER");
    process.exitCode = 2;
  } else {
    const files = await bundleWorker(path.resolve(folder));
    console.log(`${files.length} files in ${folder}`);
  }
}
