#!/usr/bin/env node
// The `mergeyard` command's first file. Plain JavaScript, because whatever Node is on the machine must be able to read
// it: under one that is too old it starts the Node that `npm ci` installed, and says so clearly when there is none.
import { spawn } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import module from "node:module";
import { fileURLToPath } from "node:url";

const NEEDED_MAJOR = 24;
const PINNED_NODE = fileURLToPath(new URL("../node_modules/node/bin/node", import.meta.url));

/** Runs this same command line under the pinned Node and ends as it ended. */
function runUnderPinnedNode() {
  const child = spawn(PINNED_NODE, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    // A terminal sends its signals to both processes; only what was sent to this one alone is passed on.
    process.on(signal, () => {
      if (signal === "SIGTERM" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child.on("close", (code, signal) => {
    if (signal === null) process.exitCode = code ?? 1;
    else process.kill(process.pid, signal);
  });
}

/** Whether `npm run build` has made a bundle, which starts twice as fast, and no source was changed since. */
function isBuilt() {
  const root = fileURLToPath(new URL("../", import.meta.url));
  const list = `${root}dist/sources.json`;
  const built = statSync(list, { throwIfNoEntry: false })?.mtimeMs;
  if (built === undefined) return false;
  const isChanged = (source) => (statSync(root + source, { throwIfNoEntry: false })?.mtimeMs ?? 0) > built;
  return !JSON.parse(readFileSync(list, "utf8")).some(isChanged);
}

if (process.argv.length === 3 && process.argv[2] === "--version") {
  // Scripts ask for it often, and nothing of the program is needed to say it.
  const manifest = readFileSync(fileURLToPath(new URL("../package.json", import.meta.url)), "utf8");
  process.stdout.write(`${JSON.parse(manifest).version}\n`);
} else if (Number(process.versions.node.split(".")[0]) >= NEEDED_MAJOR) {
  module.enableCompileCache?.(fileURLToPath(new URL("../node_modules/.cache/compile", import.meta.url)));
  const { runMain } = await import(isBuilt() ? "../dist/main.mjs" : "./main.ts");
  await runMain();
} else if (existsSync(PINNED_NODE)) {
  runUnderPinnedNode();
} else {
  process.stderr.write(
    `error: mergeyard needs Node ${NEEDED_MAJOR} or newer; ${process.execPath} is Node ${process.versions.node}.\n` +
      "  what to do: run `npm ci`, without --omit=dev, in Mergeyard's folder: it installs the right Node.\n",
  );
  process.exitCode = 1;
}
