// Following an execution to its end: its status from Step Functions, one request a look; all else from the yard.
import type * as z from "zod";
import { hasCode, MergeyardError } from "../core/error.ts";
import { parseJson } from "../core/json.ts";
import { parseAs } from "../core/parse-as.ts";
import { ENGINE_VERSION } from "../core/version.ts";
import { readPlan, type StoredPlan } from "../steps/plan-file.ts";
import { readFailures } from "../steps/runs/failures.ts";
import type { KnownProgress } from "../steps/runs/job-progress.ts";
import { type RunStatus, readRunStatus } from "../steps/runs/status.ts";
import { type FailureRecord, runOutputSchema } from "../steps/schemas.ts";
import type { ObjectStore } from "../stores/store.ts";
import type { Execution, ExecutionState, Executions } from "./executions.ts";

export type Follower = {
  /** Told once, when the plan is known. */
  planned(run: string): void;
  /** Told at each look. */
  progress(status: RunStatus): void;
  /** A look failed, and another follows. */
  troubled(error: MergeyardError): void;
};

export type FollowDeps = {
  readonly executions: Executions;
  readonly yard: ObjectStore;
  readonly now: () => number;
  readonly signal: AbortSignal;
  /** Resolves after the time between two looks; rejects when the signal is aborted. */
  readonly pause: () => Promise<void>;
};

export type RemoteOutcome =
  | ({ readonly status: "done" } & ReturnType<typeof runOutputSchema.parse>)
  | {
      readonly status: "failed";
      readonly error: string;
      readonly cause: string;
      readonly failure: FailureRecord | undefined;
    };

/** Looks in a row that may fail before following is given up; the execution goes on. */
const TROUBLES_MAX = 20;

/**
 * Resolves when the execution has ended. Throws RemoteStopped, RemoteRefused, RemoteVersionDiffers, what the stores
 * throw, and on abort.
 */
export async function followExecution(
  execution: Execution,
  deps: FollowDeps,
  follower: Follower,
): Promise<RemoteOutcome> {
  const known: KnownProgress = new Map();
  let planned: { readonly run: string; readonly plan: StoredPlan | undefined } | undefined;
  let troubles = 0;
  for (;;) {
    try {
      const state = await deps.executions.describe(execution.arn);
      planned ??= await findPlan(execution, deps, follower);
      if (planned?.plan !== undefined)
        follower.progress(await readRunStatus(deps.yard, planned.run, planned.plan.header, known, deps));
      if (state.status !== "RUNNING" && state.status !== "PENDING_REDRIVE") {
        return await describeEnd(state, planned?.run, deps);
      }
      troubles = 0;
    } catch (error) {
      deps.signal.throwIfAborted();
      troubles += 1;
      const mayPass = error instanceof MergeyardError && error.code !== "RemoteStopped" && error.retryable;
      if (!mayPass || troubles > TROUBLES_MAX) throw error;
      follower.troubled(error);
    }
    await deps.pause();
  }
}

/**
 * The run and its plan, once the plan step has ended and found that there is work. A plan that cannot be read (the
 * deployment is of another version) is told, and the run is followed without it.
 */
async function findPlan(
  { arn }: Execution,
  { executions, yard, signal }: FollowDeps,
  follower: Follower,
): Promise<{ readonly run: string; readonly plan: StoredPlan | undefined } | undefined> {
  const planned = await executions.readPlan(arn);
  if (planned === undefined || planned.outcome === "unchanged") return undefined;
  const plan = await readPlan(yard, planned.run, signal).catch((error: unknown) => {
    if (!hasCode(error, "YardPlanInvalid")) throw error;
    follower.troubled(error);
    return undefined;
  });
  follower.planned(planned.run);
  return { run: planned.run, plan };
}

async function describeEnd(
  { status, output, error = status, cause = "", name }: ExecutionState,
  run: string | undefined,
  { yard, signal }: FollowDeps,
): Promise<RemoteOutcome> {
  if (status === "SUCCEEDED") return { status: "done", ...readOutput(name, output) };
  if (status === "ABORTED")
    throw new MergeyardError("RemoteStopped", { where: { state: name }, found: cause || error });
  return {
    status: "failed",
    error,
    cause,
    failure: run === undefined ? undefined : (await readFailures(yard, run, signal)).at(-1),
  };
}

/** Throws RemoteVersionDiffers. */
function readOutput(execution: string, output = ""): z.output<typeof runOutputSchema> {
  return parseAs(runOutputSchema, parseJson(output), (field, found) => {
    const where = { state: execution, field };
    return new MergeyardError("RemoteVersionDiffers", { where, found, expected: `as of Mergeyard ${ENGINE_VERSION}` });
  });
}
