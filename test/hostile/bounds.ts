// What reading damaged bytes may cost. CPU time, not the clock: a loaded machine must not fail a test, a parser that
// does work out of proportion must, and so must one that never ends.
import assert from "node:assert/strict";
import { Worker } from "node:worker_threads";

const HEAP_BYTES = 512 * 2 ** 20;
/** CPU time after which a run is taken for one that never ends. */
const ENDLESS_SECONDS = 60;

// Nothing in the thread of a loop can stop it, the runner's time limit neither: another thread ends the process.
const watch = new Worker(
  `const { parentPort, workerData } = require("node:worker_threads");
  let [label, before] = [undefined, undefined];
  parentPort.on("message", (begun) => { [label, before] = [begun, process.cpuUsage()]; });
  setInterval(() => {
    if (label === undefined) return;
    const { user, system } = process.cpuUsage(before);
    if (user + system < 1e6 * workerData) return;
    require("node:fs").writeSync(2, label + " does not end\\n");
    process.kill(process.pid, "SIGKILL");
  }, 1000);`,
  { eval: true, workerData: ENDLESS_SECONDS },
);
watch.unref();

/** Runs `run`; fails when it takes this process so many CPU seconds, or leaves more than 512 MiB on the heap. */
export async function withinBounds<Value>(label: string, seconds: number, run: () => Promise<Value>): Promise<Value> {
  const before = process.cpuUsage();
  watch.postMessage(label);
  try {
    return await run();
  } finally {
    watch.postMessage(undefined);
    const { user, system } = process.cpuUsage(before);
    assert.ok(user + system < 1e6 * seconds, `${label}: ${(user + system) / 1e6} CPU seconds`);
    assert.ok(process.memoryUsage().heapUsed < HEAP_BYTES, `${label}: heap`);
  }
}
