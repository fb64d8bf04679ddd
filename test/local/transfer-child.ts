// A process of its own that pushes, pulls, converts, or fetches one file, and is killed at the n-th operation on the
// store that it writes to; started by transfer-killed.test.ts. Prints its result when it was not.
import fs from "node:fs";
import { fetchFile } from "../../steps/pull/fetch-file.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { pushStep } from "../../steps/push/push.ts";
import { runStep } from "../../steps/step.ts";
import { digestFile } from "../../steps/stream.ts";
import { createFaultyStore } from "../../stores/faulty.ts";
import { createStoreOpener } from "../../stores/open.ts";

const [task, yard = "", folder = "", at = "0"] = process.argv.slice(2);
const open = createStoreOpener(process.env);
const written = open(task === "push" ? yard : folder);
const act = (): never => {
  process.kill(process.pid, "SIGKILL");
  for (;;) fs.readSync(0, new Uint8Array(1));
};
const crash = { at: Number(at), when: Number(at) % 2 === 0 ? ("after" as const) : ("before" as const), act };
const { store } = createFaultyStore(written, { seed: 1, rate: 0, faults: [], crash });
const deps = {
  openStore: (uri: string) => (open(uri) === written ? store : open(uri)),
  now: Date.now,
  log: () => undefined,
  signal: new AbortController().signal,
};
/** Fetches the object `large` of the other place. */
async function fetchLarge(): Promise<{ readonly known: number; readonly fetched: number }> {
  const [key, source] = ["large", open(yard)];
  const bytes = (await source.head(key))?.bytes ?? 0;
  const from = { store: source, key, bytes };
  const file = { name: key, bytes, digest: await digestFile(from, deps.signal) };
  let fetched = 0;
  const known = await fetchFile(from, store, file, deps.signal, (more) => {
    fetched += more;
  });
  return { known, fetched };
}

/** Loaded for this task alone: the others start sooner. */
async function convert() {
  const [{ convertStep }, { createConvert }, { createPool }] = await Promise.all([
    import("../../steps/convert/convert.ts"),
    import("../../workers/convert-executor.ts"),
    import("../../workers/pool.ts"),
  ]);
  const executeConvert = createConvert(deps.openStore, createPool(deps.openStore));
  const convertDeps = { ...deps, executeConvert, threads: 1, memoryBytes: 2 ** 29 };
  return runStep(convertStep, { source: yard, target: folder, to: "universal" }, convertDeps);
}

const tasks = {
  push: () => runStep(pushStep, { yard, source: folder, model: "chat" }, deps),
  pull: () => runStep(pullStep, { yard, model: "ab:nightly", target: folder }, deps),
  convert,
  fetch: fetchLarge,
} as const;
console.log(JSON.stringify(await tasks[task === "push" || task === "pull" || task === "convert" ? task : "fetch"]()));
