// Bundles programs of this repository: entries with all they load, in a few files that need no node_modules. The
// worker's image (bundle-worker.ts) and the built command line (build.ts) are made by it.
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { build, type Plugin } from "esbuild";

const ROOT = path.resolve(import.meta.dirname, "..");
const EXTENSION = ".mjs";

/** Packages in CommonJS ask for Node's modules by `require`, which a module does not have. */
const REQUIRE = 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);';

/** Files that a source names relative to itself by `new URL("file.ext", import.meta.url)`. */
const NAMED = /new URL\("([\w./-]+\.\w+)", import\.meta\.url\)/g;

/** `files`: what was written, named in the folder. `sources`: what it was made from, named in the repository. */
export type Bundle = { readonly files: readonly string[]; readonly sources: readonly string[] };

/**
 * Writes the folder anew: for every entry, a source in the repository, a file of its name. Throws when a source starts
 * another by its path that is no entry.
 */
export async function bundle(entries: Readonly<Record<string, string>>, folder: string): Promise<Bundle> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const copied = new Map<string, string>();
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: entries,
    outdir: folder,
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
    plugins: [followNamedFiles(entries, copied)],
  });
  for (const [name, source] of copied) copyFileSync(source, path.join(folder, name));
  const made = Object.keys(metafile.outputs).map((output) => path.relative(folder, path.resolve(ROOT, output)));
  const sources = Object.keys(metafile.inputs).filter((input) => !input.startsWith("node_modules/"));
  const others = [...copied.values()].map((source) => path.relative(ROOT, source));
  return { files: [...made, ...copied.keys()].sort(), sources: [...sources, ...others].sort() };
}

/** A source that another names is an entry and gets its new name; any other file is copied into the bundle's folder. */
function followNamedFiles(entries: Readonly<Record<string, string>>, copied: Map<string, string>): Plugin {
  const names = new Map(Object.entries(entries).map(([name, source]) => [path.join(ROOT, source), name]));
  return {
    name: "named-files",
    setup({ onLoad }) {
      onLoad({ filter: /\.ts$/ }, async ({ path: source }) => {
        const contents = (await readFile(source, "utf8")).replace(NAMED, (reference, name: string) => {
          const file = path.join(path.dirname(source), name);
          if (name.endsWith(".ts")) {
            const entry = names.get(file);
            if (entry === undefined) throw new Error(`${source} starts ${file}, which is no entry of the bundle`);
            return reference.replace(name, `${entry}${EXTENSION}`);
          }
          const base = path.basename(name);
          const other = copied.get(base);
          if (other !== undefined && other !== file) throw new Error(`${other} and ${file} have one name`);
          copied.set(base, file);
          return reference.replace(name, base);
        });
        return { contents, loader: "ts" };
      });
    },
  };
}
