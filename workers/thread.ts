// Worker thread of a pool: receives one region at a time, does it with its own kernels and stores, answers with plain
// data. Started by region-runner.ts; holds no state between regions but open files and kernel memory.
import { parentPort } from "node:worker_threads";
import { MergeyardError } from "../core/error.ts";
import { createStoreOpener } from "../stores/open.ts";
import { createKernelKeeper, runRegionJob } from "./region-job.ts";
import type { ThreadReply, ThreadTask } from "./thread-messages.ts";

/** Progress is told at most this often, so that it costs nothing. */
const PROGRESS_INTERVAL_MS = 100;

/** Who wants no more of a thread ends it. */
const NEVER = new AbortController().signal;

const port = parentPort;
if (port === null) throw new Error("thread.ts is started by region-runner.ts, in a worker thread");
const reply = (message: ThreadReply): void => port.postMessage(message);
const openStore = createStoreOpener(process.env);
const kernelsFor = createKernelKeeper();

async function run({ job, capacityBytes }: ThreadTask): Promise<void> {
  let [read, written, told] = [0, 0, performance.now()];
  const tell = (): void => {
    reply({ type: "progress", read, written });
    [read, written, told] = [0, 0, performance.now()];
  };
  const outcome = await runRegionJob(job, {
    kernels: () => kernelsFor(capacityBytes),
    openStore,
    signal: NEVER,
    progress: (moreRead, moreWritten) => {
      read += moreRead;
      written += moreWritten;
      if (performance.now() - told >= PROGRESS_INTERVAL_MS) tell();
    },
  });
  tell();
  reply({ type: "done", outcome });
}

port.on("message", (task: ThreadTask) => {
  run(task).catch((error: unknown) => {
    const record = error instanceof MergeyardError ? error.toJSON() : undefined;
    reply({ type: "failed", record, text: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  });
});
