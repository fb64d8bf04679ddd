// The Batch entry: one job of an array. Job i of n runs units i, i + n, i + 2n, ... of one stage, says what it does as
// one JSON event a line on stdout, and ends as Batch's retry rules expect: 0 done, 75 try again (a passing fault, a
// stopped machine), 1 not worth trying again. The local runner starts the same file as a child process.
import * as z from "zod";
import { MergeyardError } from "../core/error.ts";
import { MEMORY_BYTES_DEFAULT } from "../core/plan/defaults.ts";
import type { BytesDone } from "../engine/request.ts";
import { describeError, orLog } from "../steps/error-record.ts";
import { beatMs, openProgress, type ProgressKeeper } from "../steps/runs/job-progress.ts";
import type { StepEvent, UnitDeps } from "../steps/step.ts";
import { openRun, type UnitContext } from "../steps/units/context.ts";
import { recordUnitFailure } from "../steps/units/failures.ts";
import { runUnit } from "../steps/units/run-unit.ts";
import { createStoreOpener } from "../stores/open.ts";
import { readContainerImage } from "./container-image.ts";
import { createMergeExecutor } from "./merge-executor.ts";
import { defaultThreads } from "./pool.ts";
import { awaitSpotNotice } from "./spot-notice.ts";

/** Everything done. */
const EXIT_DONE = 0;
/** A fault that trying again will not cure. */
const EXIT_FAILED = 1;
/** EX_TEMPFAIL of sysexits.h: a passing fault, or the machine was taken away. Retry rules of the jobs name it. */
export const EXIT_TRANSIENT = 75;

/** Time between progress events of one unit. Shorter floods the log service, longer looks dead. */
const PROGRESS_INTERVAL_MS = 1000;
/** Time that a stopped worker has to drop its unit before it ends anyway; Batch kills 30 s after SIGTERM. */
const STOP_GRACE_MS = 10_000;

const whole = z.coerce.number().int();

/** The variables that the job definition sets; Batch adds the array index, except to an array of one. */
const environmentSchema = z.object({
  MERGEYARD_YARD: z.string().min(1),
  MERGEYARD_RUN: z.string().min(1),
  MERGEYARD_STAGE: whole.nonnegative(),
  MERGEYARD_JOBS: whole.positive().default(1),
  AWS_BATCH_JOB_ARRAY_INDEX: whole.nonnegative().default(0),
  MERGEYARD_THREADS: whole.positive().max(1024).optional(),
  MERGEYARD_MEMORY_BYTES: whole.positive().default(MEMORY_BYTES_DEFAULT),
});

/**
 * What a worker works with, but for what the job's environment says; the process below fills it in, tests their own
 * way. `signal` is aborted by SIGTERM, or when the parent is gone.
 */
export type WorkerDeps = Omit<UnitDeps, "threads" | "memoryBytes" | "progress" | "begun">;

/** Runs the job that the environment describes and returns its exit status. Never rejects. */
export async function runJob(
  environment: Readonly<Record<string, string | undefined>>,
  deps: WorkerDeps,
): Promise<number> {
  const parsed = environmentSchema.safeParse(environment);
  if (!parsed.success) {
    deps.log({ event: "worker-misconfigured", problem: z.prettifyError(parsed.error) });
    return EXIT_FAILED;
  }
  return runStageJob(parsed.data, deps);
}

type Job = z.infer<typeof environmentSchema>;

async function runStageJob(job: Job, deps: WorkerDeps): Promise<number> {
  const { MERGEYARD_RUN: run, MERGEYARD_STAGE: stage, MERGEYARD_JOBS: jobs, AWS_BATCH_JOB_ARRAY_INDEX: first } = job;
  const machine = {
    threads: job.MERGEYARD_THREADS ?? defaultThreads(),
    memoryBytes: job.MERGEYARD_MEMORY_BYTES,
  };
  let unit: number | undefined;
  let context: UnitContext<UnitDeps> | undefined;
  let keeper: ProgressKeeper | undefined;
  const log = (event: StepEvent): void => {
    deps.log(event);
    if (event.event !== "unit-progress") keeper?.note(event);
  };
  const place = () => ({ run, stage, unit });
  const told = throttle(deps, place);
  const progress = (done: BytesDone): void => {
    keeper?.update(done);
    told(done);
  };
  let beats: NodeJS.Timeout | undefined;
  const end = async (state: "done" | "stopped" | "failed", exitCode: number): Promise<number> => {
    clearInterval(beats);
    await keeper?.close(state);
    return exitCode;
  };
  try {
    context = await openRun({ yard: job.MERGEYARD_YARD, run }, { ...deps, ...machine, log, progress });
    const units = context.plan.header.stages.find((entry) => entry.index === stage)?.units ?? 0;
    if (first >= units) return EXIT_DONE;
    const own = Math.ceil((units - first) / jobs);
    keeper = await openProgress({ yard: context.yard, run, stage, job: first, jobs, units: own, ...machine }, deps);
    beats = setInterval(() => void keeper?.beat(), beatMs(jobs)).unref();
    for (unit = first; unit < units; unit += jobs) {
      deps.signal.throwIfAborted();
      keeper.unitStarted(unit);
      log({ event: "unit-started", ...place() });
      const { receipt, found } = await runUnit(context, stage, unit);
      keeper.unitFinished(receipt);
      const { op, cached, bytesRead, bytesWritten, cpuMs, wallMs } = receipt;
      log({
        event: found ? "unit-found" : "unit-finished",
        ...place(),
        op,
        cached,
        bytesRead,
        bytesWritten,
        cpuMs,
        wallMs,
      });
    }
    return await end("done", EXIT_DONE);
  } catch (error) {
    if (deps.signal.aborted) {
      log({ event: "worker-stopped", ...place(), reason: String(deps.signal.reason) });
      return await end("stopped", EXIT_TRANSIENT);
    }
    await tellFailure(error, context, { run, stage, unit }, log);
    return await end("failed", error instanceof MergeyardError && error.retryable ? EXIT_TRANSIENT : EXIT_FAILED);
  }
}

/** Tells of the failure on stdout and in the yard. */
async function tellFailure(
  error: unknown,
  context: UnitContext | undefined,
  place: { readonly run: string; readonly stage: number; readonly unit: number | undefined },
  log: (event: StepEvent) => void,
): Promise<void> {
  const { run, stage, unit } = place;
  const record = describeError(error);
  log({ event: "unit-failed", ...place, code: record.code, error: record });
  if (context === undefined || unit === undefined) return;
  const { yard } = context;
  const logPlaced = (event: StepEvent): void => log({ ...event, ...place });
  await orLog(logPlaced, "failure-not-recorded", () =>
    recordUnitFailure(yard, run, { stage, index: unit, error: record }),
  );
}

function throttle(deps: WorkerDeps, place: () => object): (done: BytesDone) => void {
  let toldMs = deps.now();
  return (done) => {
    const nowMs = deps.now();
    if (nowMs - toldMs < PROGRESS_INTERVAL_MS) return;
    toldMs = nowMs;
    deps.log({ event: "unit-progress", ...place(), ...done });
  };
}

async function main(): Promise<void> {
  const stop = new AbortController();
  const openStore = createStoreOpener(process.env);
  const executor = createMergeExecutor(openStore);
  const abort = (reason: string): void => {
    stop.abort(reason);
    setTimeout(() => process.exit(EXIT_TRANSIENT), STOP_GRACE_MS).unref();
  };
  process.once("SIGTERM", () => abort("SIGTERM"));
  process.once("SIGINT", () => abort("SIGINT"));
  if (process.env.MERGEYARD_PARENT_PIPE === "1") {
    process.stdin.once("close", () => abort("the parent process ended")).resume();
  }
  const endpoint = process.env.MERGEYARD_METADATA_ENDPOINT;
  if (endpoint !== undefined) {
    const watch = awaitSpotNotice({ endpoint, signal: stop.signal });
    void watch.then((isTaken) => isTaken && abort("Spot takes the machine"));
  }
  const exitCode = await runJob(process.env, {
    openStore,
    executeMerge: executor.execute,
    executeMeasure: executor.measure,
    executeConvert: executor.convert,
    log: (event) => void process.stdout.write(`${JSON.stringify(event)}\n`),
    now: Date.now,
    cpuMs: () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1000;
    },
    image: await readContainerImage(process.env),
    signal: stop.signal,
  });
  await executor.close();
  process.exit(exitCode);
}

if (import.meta.main) await main();
