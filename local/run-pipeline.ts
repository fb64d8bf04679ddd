// The local edge: one run of a pipeline on this machine, through the same state machine, steps and workers as in the
// cloud. Functions run in this process, jobs as child processes, and the journal in the run's folder lets the next call
// go on where a killed one stopped.
import type * as z from "zod";
import type { Json } from "../core/json.ts";
import { BATCH_SUBMIT_JOB, LAMBDA_INVOKE, renderDefinition, type Substitutions } from "../flow/definition.ts";
import { type FailureRecord, planOutputSchema, recordFailureOutputSchema, runOutputSchema } from "../steps/schemas.ts";
import type { StepDeps, StepEvent } from "../steps/step.ts";
import type { OpenStore } from "../stores/store.ts";
import { type Clock, systemClock } from "./asl/clock.ts";
import { execute } from "./asl/execute.ts";
import { loadMachine } from "./asl/load.ts";
import { createLocalBatch } from "./batch.ts";
import type { Command } from "./child.ts";
import { createLocalLambda, type LocalFunction } from "./lambda.ts";
import { createRunJournal } from "./run-journal.ts";

export type PipelineRun = {
  /** URI of the yard. */
  readonly yard: string;
  /** The pipeline's file: a store and a key in it. */
  readonly pipeline: { readonly store: string; readonly key: string };
  /** Models named on the command line. */
  readonly models?: Readonly<Record<string, string>> | undefined;
  /** URI of the current folder. */
  readonly folder?: string | undefined;
  /** Workers at one time, threads of each, and memory of each. */
  readonly jobs: number;
  readonly threads: number;
  readonly memoryBytes: number;
  /** Bytes of tensors in one output file; the planner's default when undefined. */
  readonly shardBytes?: number | undefined;
  /** What workers inherit: store settings, credentials, PATH. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Aborted: workers are stopped, and the same call later goes on. */
  readonly signal: AbortSignal;
  readonly onEvent: (event: StepEvent) => void;
};

/** The functions behind the state machine's Lambda tasks. */
export type PipelineFunctions = {
  readonly [name in "plan" | "check" | "publish" | "notify" | "recordFailure"]: (
    payload: unknown,
    deps: StepDeps,
  ) => Promise<unknown>;
};

/** What the run is made of; tests replace parts of it. */
export type PipelineParts = {
  readonly openStore: OpenStore;
  readonly functions: PipelineFunctions;
  /** Starts a worker. */
  readonly worker: Command;
  /** What workers find in their environment unless the run's own says something else. */
  readonly workerEnvironment?: Readonly<Record<string, string>> | undefined;
  readonly clock?: Clock | undefined;
  readonly killAfterMs?: number | undefined;
  readonly retryDelayMs?: number | undefined;
};

export type PipelineOutcome =
  | ({ readonly status: "done" } & z.infer<typeof runOutputSchema>)
  /** `failure` is the record that the run keeps; undefined when even recording failed. */
  | {
      readonly status: "failed";
      readonly error: string;
      readonly cause: string;
      readonly failure: FailureRecord | undefined;
    }
  | { readonly status: "cancelled" };

/** Names in the rendered definition. They are the same in every run: the journal depends on them. */
const NAMES = Object.freeze({
  PlanFunction: "plan",
  CheckFunction: "check",
  PublishFunction: "publish",
  NotifyFunction: "notify",
  RecordFailureFunction: "record-failure",
  ShardJobDefinition: "sharder",
  WorkerJobDefinition: "worker",
  GpuWorkerJobDefinition: "gpu-worker",
  CpuQueue: "local",
  GpuQueue: "local-gpu",
}) satisfies Substitutions;

/**
 * Runs a pipeline to its end. Rejects only when the runner itself cannot go on (FlowRunBusy, a journal that cannot be
 * written): then, as after `cancelled` and after a kill, the same call goes on where this one stopped.
 */
export async function runPipeline(run: PipelineRun, parts: PipelineParts): Promise<PipelineOutcome> {
  const clock = parts.clock ?? systemClock;
  const machine = loadMachine(renderDefinition(NAMES), { resources: new Set([LAMBDA_INVOKE, BATCH_SUBMIT_JOB]) });
  const journal = createRunJournal({ store: parts.openStore(run.yard), definition: machine.digest, now: clock.now });
  const broken = new AbortController();
  const seen: Seen = { failure: undefined };
  const openJournal = async (id: string): Promise<void> => {
    try {
      run.onEvent({ event: "attempt-opened", run: id, ...(await journal.open(id)) });
    } catch (error) {
      broken.abort(error);
      throw error;
    }
  };
  const result = await execute({
    machine,
    input: inputOf(run),
    name: "local",
    tasks: new Map([
      [LAMBDA_INVOKE, createLocalLambda(bindFunctions(run, parts, clock, openJournal, seen))],
      [BATCH_SUBMIT_JOB, createWorkers(run, parts, clock)],
    ]),
    journal,
    clock,
    signal: AbortSignal.any([run.signal, broken.signal]),
    onEvent: run.onEvent,
  });
  broken.signal.throwIfAborted();
  await closeJournal(() => journal.end(result.status), run.onEvent);
  if (result.status === "SUCCEEDED") return { status: "done", ...runOutputSchema.parse(result.output) };
  if (result.status === "ABORTED") return { status: "cancelled" };
  return { status: "failed", error: result.error, cause: result.cause, failure: seen.failure };
}

/** What functions gave that the state machine does not carry to its end. */
type Seen = { failure: FailureRecord | undefined };

/** The input of the state machine: what the plan step takes. */
function inputOf({ yard, pipeline, models, folder, shardBytes, memoryBytes, threads }: PipelineRun): Json {
  return {
    yard,
    pipeline: { store: pipeline.store, key: pipeline.key },
    models: { ...models },
    memoryBytes,
    threads,
    ...(folder === undefined ? {} : { folder }),
    ...(shardBytes === undefined ? {} : { shardBytes }),
  };
}

/** The functions by their names in the definition. The plan's opens the journal, for only it knows the run. */
function bindFunctions(
  run: PipelineRun,
  { functions, openStore }: PipelineParts,
  clock: Clock,
  openJournal: (id: string) => Promise<void>,
  seen: Seen,
): ReadonlyMap<string, LocalFunction> {
  const depsFor = (signal: AbortSignal): StepDeps => ({ openStore, now: clock.now, log: run.onEvent, signal });
  return new Map<string, LocalFunction>([
    [
      NAMES.PlanFunction,
      async (payload, { signal }) => {
        const output = planOutputSchema.parse(await functions.plan(payload, depsFor(signal)));
        if (output.outcome === "planned") await openJournal(output.run);
        return output;
      },
    ],
    [NAMES.CheckFunction, (payload, { signal }) => functions.check(payload, depsFor(signal))],
    [NAMES.PublishFunction, (payload, { signal }) => functions.publish(payload, depsFor(signal))],
    [NAMES.NotifyFunction, (payload, { signal }) => functions.notify(payload, depsFor(signal))],
    [
      NAMES.RecordFailureFunction,
      async (payload, { signal }) => {
        const output = recordFailureOutputSchema.parse(await functions.recordFailure(payload, depsFor(signal)));
        const { yard: _yard, key: _key, ...failure } = output;
        seen.failure = failure;
        return output;
      },
    ],
  ]);
}

function createWorkers(run: PipelineRun, parts: PipelineParts, clock: Clock) {
  return createLocalBatch({
    // One program; on AWS the two differ in what they may write.
    definitions: new Map([
      [NAMES.ShardJobDefinition, parts.worker],
      [NAMES.WorkerJobDefinition, parts.worker],
    ]),
    environment: {
      ...parts.workerEnvironment,
      ...run.environment,
    },
    size: { MERGEYARD_THREADS: String(run.threads), MERGEYARD_MEMORY_BYTES: String(run.memoryBytes) },
    jobs: run.jobs,
    clock,
    log: run.onEvent,
    killAfterMs: parts.killAfterMs,
    retryDelayMs: parts.retryDelayMs,
  });
}

/** What the run did stands, whether its journal can be closed or not; an open journal costs the next run nothing. */
async function closeJournal(close: () => Promise<void>, onEvent: (event: StepEvent) => void): Promise<void> {
  try {
    await close();
  } catch (error) {
    onEvent({ event: "journal-not-closed", error: String(error) });
  }
}
