// A process of its own that pushes or pulls and is killed at the n-th operation on the store that it writes to; started
// by transfer-killed.test.ts. Prints its result when it was not.
import fs from "node:fs";
import { pullStep } from "../../steps/pull.ts";
import { pushStep } from "../../steps/push.ts";
import { runStep } from "../../steps/step.ts";
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
const result =
  task === "push"
    ? await runStep(pushStep, { yard, source: folder, model: "chat" }, deps)
    : await runStep(pullStep, { yard, model: "ab:nightly", target: folder }, deps);
console.log(JSON.stringify(result));
