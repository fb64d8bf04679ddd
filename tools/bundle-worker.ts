// Makes the folder that the worker's image is built from: the Dockerfile, and `worker/` with everything that a worker
// loads, in a few files that need no node_modules. The CDK app runs it at synthesis; it needs neither Docker nor
// network.
//
//   node tools/bundle-worker.ts FOLDER
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { build, type Plugin } from "esbuild";

const ROOT = path.resolve(import.meta.dirname, "..");
/** What is started by its path: the job, and the threads of its executor. */
const ENTRIES = { main: "workers/main.ts", thread: "workers/thread.ts" };
const EXTENSION = ".mjs";

/** Packages in CommonJS ask for Node's modules by `require`, which a module does not have. */
const REQUIRE = 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);';

/** Files that a source names beside itself by `new URL("file", import.meta.url)`. */
const BESIDE = /new URL\("([\w.-]+)", import\.meta\.url\)/g;

/**
 * Writes the folder anew; returns the paths in it. Throws when a source needs a file that the bundle would not have.
 */
export async function bundleWorker(folder: string): Promise<readonly string[]> {
  const target = path.join(folder, "worker");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  const beside = new Map<string, string>();
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: ENTRIES,
    outdir: target,
    outExtension: { ".js": EXTENSION },
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node24",
    mainFields: ["module", "main"],
    banner: { js: REQUIRE },
    metafile: true,
    logLevel: "error",
    plugins: [followFilesBeside(beside)],
  });
  for (const [name, source] of beside) copyFileSync(source, path.join(target, name));
  copyFileSync(path.join(ROOT, "workers/Dockerfile"), path.join(folder, "Dockerfile"));
  const made = Object.keys(metafile.outputs).map((output) => path.relative(folder, path.resolve(ROOT, output)));
  return [...made, ...[...beside.keys()].map((name) => `worker/${name}`), "Dockerfile"].sort();
}

/** A source beside another is an entry and gets its new name; any other file is copied into the bundle's one folder. */
function followFilesBeside(beside: Map<string, string>): Plugin {
  const entries = new Map(Object.entries(ENTRIES).map(([name, source]) => [path.join(ROOT, source), name]));
  return {
    name: "files-beside",
    setup({ onLoad }) {
      onLoad({ filter: /\.ts$/ }, async ({ path: source }) => {
        const contents = (await readFile(source, "utf8")).replace(BESIDE, (reference, name: string) => {
          const file = path.join(path.dirname(source), name);
          if (!name.endsWith(".ts")) {
            const other = beside.get(name);
            if (other !== undefined && other !== file) throw new Error(`${other} and ${file} have one name`);
            beside.set(name, file);
            return reference;
          }
          const entry = entries.get(file);
          if (entry === undefined) throw new Error(`${source} starts ${file}, which is no entry of the bundle`);
          return reference.replace(name, `${entry}${EXTENSION}`);
        });
        return { contents, loader: "ts" };
      });
    },
  };
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
