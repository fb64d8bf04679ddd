// The import law of docs/architecture.md as data, and the check of one import against it. Arrows only point up the
// table: an edge imports steps, steps import core, never the other way.
import path from "node:path";

/** What the files of a folder may import besides their own folder. A trailing slash means the folder, else the file. */
type Law = {
  readonly folders: readonly string[];
  readonly packages: readonly (string | RegExp)[];
  /** Node's own modules: a list, or every one of them. */
  readonly node: readonly string[] | "all";
};

const STORE_INTERFACE = "stores/store.ts";
/** Node modules that compute but touch no file, network or process. */
const PURE_NODE = [
  "node:assert/strict",
  "node:crypto",
  "node:path",
  "node:path/posix",
  "node:util",
  "node:buffer",
  "node:zlib",
  "node:timers/promises",
];

const IMPORT_LAW: Readonly<Record<string, Law>> = {
  core: { folders: [], packages: ["zod"], node: ["node:crypto", "node:assert/strict"] },
  kernels: { folders: ["core/"], packages: [], node: "all" },
  stores: { folders: ["core/"], packages: ["zod", "@aws-sdk/client-s3", /^@smithy\//], node: "all" },
  engine: { folders: ["core/", STORE_INTERFACE], packages: ["zod"], node: [...PURE_NODE, "node:worker_threads"] },
  steps: {
    folders: ["core/", "engine/", STORE_INTERFACE, "stores/objects.ts"],
    packages: ["zod", "yaml"],
    node: PURE_NODE,
  },
  flow: { folders: ["core/error.ts", "steps/schemas.ts"], packages: ["zod"], node: PURE_NODE },
  remote: {
    folders: ["core/", "steps/", "stores/"],
    packages: ["zod", "@aws-sdk/client-sfn", "@aws-sdk/client-batch"],
    node: "all",
  },
  signing: { folders: ["core/"], packages: ["@aws-sdk/client-kms"], node: "all" },
  functions: {
    folders: ["core/", "steps/", "stores/", "signing/"],
    packages: ["zod", "@middy/core", "@aws-sdk/client-sfn"],
    node: "all",
  },
  workers: { folders: ["core/", "steps/", "stores/", "kernels/", "engine/"], packages: ["zod"], node: "all" },
  local: { folders: ["core/", "flow/", "steps/", "stores/", "engine/"], packages: ["zod", "jsonata"], node: "all" },
  cli: {
    folders: [
      "core/",
      "kernels/",
      "stores/",
      "engine/",
      "steps/",
      "flow/",
      "functions/",
      "workers/",
      "local/",
      "signing/",
      "remote/",
    ],
    packages: ["zod", "commander", "yaml"],
    node: "all",
  },
  infra: {
    folders: ["flow/", "core/plan/machine.ts", "core/cost/"],
    packages: [/^aws-cdk-lib/, /^cdk-nag/, "constructs", "zod"],
    node: "all",
  },
};

/** Why `file` may not import `specifier`, with the fix; undefined when it may. Folders without a law may do all. */
export function judgeImport(file: string, specifier: string): string | undefined {
  const folder = file.split("/")[0] ?? "";
  const law = IMPORT_LAW[folder];
  if (law === undefined) return undefined;
  if (specifier.startsWith(".")) {
    const target = path.posix.join(path.posix.dirname(file), specifier);
    const own = target.startsWith(`${folder}/`);
    const allowed = law.folders.some((entry) => (entry.endsWith("/") ? target.startsWith(entry) : target === entry));
    if (own || allowed) return undefined;
    return `${folder}/ may import ${list(law.folders)}, not ${target}: take it as an argument, or move it down to core`;
  }
  if (specifier.startsWith("node:")) {
    if (law.node === "all" || law.node.includes(specifier)) return undefined;
    return `${folder}/ may use ${list(law.node)} of Node, not ${specifier}: let an edge do it and pass the result in`;
  }
  const allowed = law.packages.some((name) =>
    typeof name === "string" ? specifier === name || specifier.startsWith(`${name}/`) : name.test(specifier),
  );
  if (allowed) return undefined;
  const packages = list(law.packages.map(String));
  return `${folder}/ may use the packages ${packages}, not ${specifier}: put it behind an interface`;
}

function list(names: readonly string[]): string {
  return names.length === 0 ? "nothing" : names.join(", ");
}

/** Loops of a graph of files, each from a file back to itself: at least one of every set that has any. */
export function findLoops(imported: ReadonlyMap<string, readonly string[]>): readonly (readonly string[])[] {
  const loops: (readonly string[])[] = [];
  const done = new Set<string>();
  const way: string[] = [];
  const visit = (file: string): void => {
    const at = way.indexOf(file);
    if (at >= 0) loops.push([...way.slice(at), file]);
    if (at >= 0 || done.has(file)) return;
    way.push(file);
    for (const next of imported.get(file) ?? []) visit(next);
    way.pop();
    done.add(file);
  };
  for (const file of imported.keys()) visit(file);
  return loops;
}
