// Who does regions: the thread that asks, or a worker thread. Both take one region at a time.
import module from "node:module";
import { dirname } from "node:path";
import { Worker } from "node:worker_threads";
import { MergeyardError } from "../core/error.ts";
import type { BytesDone } from "../engine/request.ts";
import type { OpenStore } from "../stores/store.ts";
import { createKernelKeeper, type RegionJob, type RegionOutcome, runRegionJob } from "./region-job.ts";
import type { ThreadReply, ThreadTask } from "./thread-messages.ts";

/** `more` is what was read and written since the last call. */
export type RegionOptions = { readonly signal: AbortSignal; readonly progress: (more: BytesDone) => void };

export type RegionRunner = {
  /** Does a region with at least `capacityBytes` of kernel memory. Rejects at once when the signal is aborted. */
  run(job: RegionJob, capacityBytes: number, options: RegionOptions): Promise<RegionOutcome>;
  /** Ends it, in the middle of a region if need be. */
  close(): Promise<void>;
};

/** Works in this thread, with kernels of its own that are kept for the next region. */
export function createLocalRunner(openStore: OpenStore): RegionRunner {
  let kernelsFor = createKernelKeeper();
  return {
    run(job, capacityBytes, { signal, progress }) {
      const report = (bytesRead: number, bytesWritten: number): void => progress({ bytesRead, bytesWritten });
      return runRegionJob(job, { kernels: () => kernelsFor(capacityBytes), openStore, signal, progress: report });
    },
    close: async () => {
      kernelsFor = createKernelKeeper();
    },
  };
}

/** Works in a worker thread, which stays for the next region. */
export function createThreadRunner(): RegionRunner {
  const worker = new Worker(new URL("thread.ts", import.meta.url), { env: threadEnvironment() });
  return {
    run(job, capacityBytes, { signal, progress }) {
      const { promise, resolve, reject } = Promise.withResolvers<RegionOutcome>();
      const onMessage = (reply: ThreadReply): void => {
        if (reply.type === "progress") progress({ bytesRead: reply.read, bytesWritten: reply.written });
        else if (reply.type === "done") resolve(reply.outcome);
        else reject(failureOf(reply));
      };
      const onExit = (code: number): void => reject(new Error(`a worker thread ended with status ${code}`));
      const onAbort = (): void => reject(signal.reason);
      worker.on("message", onMessage).on("error", reject).on("exit", onExit);
      signal.addEventListener("abort", onAbort, { once: true });
      if (signal.aborted) onAbort();
      else worker.postMessage({ job, capacityBytes } satisfies ThreadTask);
      return promise.finally(() => {
        signal.removeEventListener("abort", onAbort);
        worker.off("message", onMessage).off("error", reject).off("exit", onExit);
      });
    },
    close: async () => void (await worker.terminate()),
  };
}

/** The process's environment; when it keeps compiled code, its threads, which load the same files, do too. */
function threadEnvironment(): NodeJS.ProcessEnv {
  const folder = module.getCompileCacheDir();
  // The folder in use is a version's own, below the one that was asked for.
  return folder === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: dirname(folder) };
}

/** The error of a thread, as the same class it was there. */
function failureOf(reply: Extract<ThreadReply, { type: "failed" }>): Error {
  if (reply.record === undefined) return new Error(reply.text);
  const { code, where, found, expected, hint } = reply.record;
  return new MergeyardError(code, { where, found, expected, hint });
}
