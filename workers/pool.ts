// Threads of one process and the regions they work on: the calling thread works too, and worker threads join it. They
// start with the first work there is for them and stay for the next. One list of jobs at a time.
import { availableParallelism } from "node:os";
import type { BytesDone } from "../engine/request.ts";
import type { OpenStore } from "../stores/store.ts";
import type { RegionJob, RegionOutcome } from "./region-job.ts";
import { createLocalRunner, createThreadRunner, type RegionRunner } from "./region-runner.ts";

/** Threads that a machine runs best: one a processor. */
export function defaultThreads(): number {
  return availableParallelism();
}

export type PoolOptions = {
  readonly threads: number;
  /** Kernel memory of each thread. */
  readonly capacityBytes: number;
  readonly signal: AbortSignal;
  readonly progress: ((done: BytesDone) => void) | undefined;
};

/** Outcomes in the order of the jobs, and what was read and written for all of them. */
export type Finished = { readonly outcomes: readonly RegionOutcome[]; readonly done: BytesDone };

export type Pool = {
  /**
   * Hands jobs to threads as they become free; rejects at the first failure. Worker threads have ended then: what
   * they were writing may be taken away.
   */
  run(jobs: readonly RegionJob[], options: PoolOptions): Promise<Finished>;
  /** Ends the threads, in the middle of a region if need be. The pool may be used again, with new ones. */
  close(): Promise<void>;
};

export function createPool(openStore: OpenStore): Pool {
  const runners: RegionRunner[] = [];
  const ensureRunners = (count: number): readonly RegionRunner[] => {
    if (runners.length === 0) runners.push(createLocalRunner(openStore));
    while (runners.length < count) runners.push(createThreadRunner());
    return runners.slice(0, count);
  };
  const close = async (): Promise<void> => {
    await Promise.all(runners.splice(0).map((runner) => runner.close()));
  };
  return {
    async run(jobs, { threads, capacityBytes, signal, progress }) {
      const outcomes: RegionOutcome[] = [];
      let done: BytesDone = { bytesRead: 0, bytesWritten: 0 };
      const count = (more: BytesDone): void => {
        done = { bytesRead: done.bytesRead + more.bytesRead, bytesWritten: done.bytesWritten + more.bytesWritten };
        progress?.(done);
      };
      const failure = new AbortController();
      const options = { signal: AbortSignal.any([signal, failure.signal]), progress: count };
      let next = 0;
      const drain = async (runner: RegionRunner): Promise<void> => {
        for (let index = next++; index < jobs.length; index = next++) {
          const job = jobs[index];
          if (job !== undefined) outcomes[index] = await runner.run(job, capacityBytes, options);
        }
      };
      try {
        await Promise.all(ensureRunners(threads).map(drain));
      } catch (error) {
        failure.abort(error);
        await close();
        throw error;
      }
      return { outcomes, done };
    },
    close,
  };
}
