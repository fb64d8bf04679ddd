// Bundles programs of this repository: entries with all they load, in a few files that need no node_modules. The
// worker's image (bundle-worker.ts) and the built command line (build.ts) are made by it.
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import { type Plugin, type RolldownOutput, rolldown } from "rolldown";

const ROOT = path.resolve(import.meta.dirname, "..");
const EXTENSION = ".mjs";

/** Files that a source names relative to itself by `new URL("file.ext", import.meta.url)`. */
const NAMED = /new URL\("([\w./-]+\.\w+)", import\.meta\.url\)/g;

/**
 * Starting costs by the file more than by the byte: what this many of the parts need that are loaded by themselves,
 * such as commands, stands in one file for all.
 */
const SHARE_COUNT_MIN = 8;
/** The AWS SDK is loaded by who talks to AWS. */
const ON_DEMAND = /\/node_modules\/@(?:aws|smithy)/;

/** `files`: what was written, named in the folder. `sources`: what it was made from, named in the repository. */
export type Bundle = { readonly files: readonly string[]; readonly sources: readonly string[] };

/**
 * Writes the folder anew: for every entry, a source in the repository, a file of its name. Throws when a source starts
 * another by its path that is no entry, and at whatever else the bundler would warn of.
 */
export async function bundle(entries: Readonly<Record<string, string>>, folder: string): Promise<Bundle> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const copied = new Map<string, string>();
  const files = new Set<string>();
  const inputs = new Set<string>();
  // One by one: a thread would load what commands share.
  for (const [name, source] of Object.entries(entries)) {
    const { output } = await bundleEntry(name, source, folder, followNamedFiles(entries, copied));
    for (const { fileName } of output) files.add(fileName);
    for (const file of output) if (file.type === "chunk") for (const id of file.moduleIds) inputs.add(id);
  }
  for (const [name, source] of copied) {
    copyFileSync(source, path.join(folder, name));
    files.add(name);
    inputs.add(source);
  }
  const sources = [...inputs].filter((file) => path.isAbsolute(file)).map((file) => path.relative(ROOT, file));
  return {
    files: [...files].sort(),
    sources: sources.filter((source) => !source.startsWith("node_modules/")).sort(),
  };
}

async function bundleEntry(name: string, source: string, folder: string, plugin: Plugin): Promise<RolldownOutput> {
  const build = await rolldown({
    cwd: ROOT,
    input: { [name]: source },
    platform: "node",
    plugins: [plugin],
    onLog(_level, { code, message = "" }) {
      // A package that is not found is a warning, since some want it to stay outside: here nothing does.
      if (code !== "INEFFECTIVE_DYNAMIC_IMPORT") throw new Error(message);
    },
  });
  try {
    return await build.write({
      dir: folder,
      format: "esm",
      entryFileNames: `[name]${EXTENSION}`,
      chunkFileNames: `[name]-[hash]${EXTENSION}`,
      codeSplitting: {
        groups: [{ name: "shared", test: (module) => !ON_DEMAND.test(module), minShareCount: SHARE_COUNT_MIN }],
      },
    });
  } finally {
    await build.close();
  }
}

/** A source that another names is an entry and gets its new name; any other file is copied into the bundle's folder. */
function followNamedFiles(entries: Readonly<Record<string, string>>, copied: Map<string, string>): Plugin {
  const names = new Map(Object.entries(entries).map(([name, source]) => [path.join(ROOT, source), name]));
  return {
    name: "named-files",
    transform: {
      filter: { id: /\.ts$/ },
      handler: (code, source) =>
        code.replace(NAMED, (reference, name: string) => {
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
        }),
    },
  };
}
