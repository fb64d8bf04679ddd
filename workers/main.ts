// The Batch entry: one job of an array. Job i of n runs units i, i + n, i + 2n, ... of one stage, says what it does as
// one JSON event a line on stdout, and ends as Batch's retry rules expect: 0 done, 75 try again (a passing fault, a
// stopped machine), 1 not worth trying again. The local runner starts the same file as a child process.
import { z } from "zod";
import { MergeyardError } from "../core/error.ts";
import { MEMORY_BYTES_DEFAULT } from "../core/plan/plan-merge.ts";
import type { ExecuteMerge } from "../engine/request.ts";
import { runUnit } from "../steps/run-unit.ts";
import type { StepEvent, StepProgress, UnitDeps } from "../steps/step.ts";
import { openRun, type UnitContext } from "../steps/unit-context.ts";
import { describeError, recordUnitFailure } from "../steps/unit-failures.ts";
import { createStoreOpener } from "../stores/open.ts";
import type { OpenStore } from "../stores/store.ts";
import { readContainerImage } from "./container-image.ts";
import { createMergeExecutor } from "./executor.ts";
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

/** What a worker works with; the process below fills it in, tests their own way. */
export type WorkerDeps = {
  readonly openStore: OpenStore;
  readonly executeMerge: ExecuteMerge;
  readonly log: (event: StepEvent) => void;
  readonly now: () => number;
  readonly cpuMs: () => number;
  readonly image?: string | undefined;
  /** Aborted by SIGTERM, or when the parent is gone. */
  readonly signal: AbortSignal;
};

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
  const job = parsed.data;
  const [stage, first] = [job.MERGEYARD_STAGE, job.AWS_BATCH_JOB_ARRAY_INDEX];
  let unit: number | undefined;
  let context: UnitContext<UnitDeps> | undefined;
  const place = () => ({ stage, unit });
  const unitDeps: UnitDeps = {
    ...deps,
    threads: job.MERGEYARD_THREADS ?? defaultThreads(),
    memoryBytes: job.MERGEYARD_MEMORY_BYTES,
    progress: throttle(deps, place),
  };
  try {
    context = await openRun({ yard: job.MERGEYARD_YARD, run: job.MERGEYARD_RUN }, unitDeps);
    const units = context.plan.header.stages.find((entry) => entry.index === stage)?.units ?? 0;
    for (unit = first; unit < units; unit += job.MERGEYARD_JOBS) {
      deps.signal.throwIfAborted();
      deps.log({ event: "unit-started", ...place() });
      const receipt = await runUnit(context, stage, unit);
      const { op, cached, bytesRead, bytesWritten, cpuMs, wallMs } = receipt;
      deps.log({ event: "unit-finished", ...place(), op, cached, bytesRead, bytesWritten, cpuMs, wallMs });
    }
    return EXIT_DONE;
  } catch (error) {
    return endFailed(deps, error, context, stage, unit);
  }
}

/** Tells of the failure on stdout and in the yard, and chooses the exit status. */
async function endFailed(
  deps: WorkerDeps,
  error: unknown,
  context: UnitContext | undefined,
  stage: number,
  unit: number | undefined,
): Promise<number> {
  if (deps.signal.aborted) {
    deps.log({ event: "worker-stopped", stage, unit, reason: String(deps.signal.reason) });
    return EXIT_TRANSIENT;
  }
  const record = describeError(error);
  deps.log({ event: "unit-failed", stage, unit, error: record });
  if (context !== undefined && unit !== undefined) {
    try {
      await recordUnitFailure(context.yard, context.run, { stage, index: unit, error: record });
    } catch (cause) {
      deps.log({ event: "failure-not-recorded", stage, unit, error: describeError(cause) });
    }
  }
  return error instanceof MergeyardError && error.retryable ? EXIT_TRANSIENT : EXIT_FAILED;
}

function throttle(deps: WorkerDeps, place: () => object): (done: StepProgress) => void {
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
