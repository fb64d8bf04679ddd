// How far a run is, read from its folder in the yard: receipts say which units are done, the jobs' own records what is
// under way and what it took. For whoever follows a run: the command line, and the report.
import { layout } from "../../core/artifact/layout.ts";
import type { ObjectStore } from "../../stores/store.ts";
import type { StoredPlan } from "../plan-file.ts";
import type { StepDeps } from "../step.ts";
import { currentJobs, isLost, type JobProgress, type KnownProgress, readJobProgress } from "./job-progress.ts";

export type StageStatus = {
  readonly index: number;
  readonly name: string;
  readonly units: number;
  readonly unitsDone: number;
  /** Read and written: planned, and done so far; work that was lost counts only up to what was planned. */
  readonly bytes: number;
  readonly bytesDone: number;
};

export type RunStatus = {
  readonly stages: readonly StageStatus[];
  readonly jobsRunning: number;
  /** Jobs that say that they run and were silent for too long. */
  readonly lost: readonly JobProgress[];
  /** Machine time of all jobs and attempts. */
  readonly workerMs: number;
  readonly jobs: readonly JobProgress[];
};

/** Reads the status; `known` is what earlier readings saw, so that only what changed is fetched. */
export async function readRunStatus(
  yard: ObjectStore,
  run: string,
  plan: StoredPlan["header"],
  known: KnownProgress,
  deps: Pick<StepDeps, "now" | "signal">,
): Promise<RunStatus> {
  const done = new Map<number, number>();
  const prefix = layout.receipts(run);
  for await (const { key } of yard.list(prefix, { signal: deps.signal })) {
    const stage = Number(key.slice(prefix.length).split("-")[0]);
    done.set(stage, (done.get(stage) ?? 0) + 1);
  }
  const records = await readJobProgress(yard, run, known, deps.signal);
  const jobs = currentJobs(records);
  const nowMs = deps.now();
  const lost = jobs.filter((record) => isLost(record, nowMs));
  return {
    stages: plan.stages.map(({ index, name, units, bytesRead, bytesWritten }) => {
      const bytes = bytesRead + bytesWritten;
      const unitsDone = Math.min(units, done.get(index) ?? 0);
      const told = records.filter(({ stage }) => stage === index);
      const bytesTold = told.reduce((sum, record) => sum + record.bytesRead + record.bytesWritten, 0);
      const bytesDone = unitsDone === units ? bytes : Math.min(bytes, bytesTold);
      return { index, name, units, unitsDone, bytes, bytesDone };
    }),
    jobsRunning: jobs.filter(({ state }) => state === "running").length - lost.length,
    lost,
    workerMs: records.reduce((sum, { workerMs }) => sum + workerMs, 0),
    jobs,
  };
}
