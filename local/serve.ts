// The edge that keeps a yard running on one machine: what EventBridge, its queues and Step Functions are on AWS. It
// looks again and again at what is due, and runs one pipeline after the other. It keeps nothing itself: what was made
// stands in the yard, so it may be stopped, killed and started again, and goes on.
import { isVerdict, MergeyardError } from "../core/error.ts";
import { describeError } from "../steps/error-record.ts";
import { createLookout, type Lookout } from "../steps/lookout.ts";
import { pause } from "../steps/pause.ts";
import type { Start } from "../steps/pipeline-starts.ts";
import type { FailureRecord } from "../steps/schemas.ts";
import type { StartEnd } from "../steps/start-records.ts";
import type { StepDeps } from "../steps/step.ts";
import { openYard } from "../steps/yard.ts";
import type { PipelineOutcome } from "./run-pipeline.ts";

export type ServeOptions = {
  /** URI of the yard. */
  readonly yard: string;
  /** Between two looks. */
  readonly everyMs: number;
  /** Look once, do what is due, and end. */
  readonly once: boolean;
};

/** How a run ended. `unitsEnded`: during this run; 0: there was nothing to do. */
type Ran = { readonly outcome: PipelineOutcome; readonly unitsEnded: number };

/** A pipeline that ran, for the starts that asked for it. */
export type Served = {
  /** Its key in the yard. */
  readonly pipeline: string;
  readonly starts: readonly string[];
  readonly outcome: Exclude<PipelineOutcome, { status: "cancelled" }>;
  readonly unitsEnded: number;
};

export type ServeParts = {
  readonly deps: StepDeps;
  /** Runs a pipeline of the yard to its end. */
  readonly run: (pipeline: Start["input"]["pipeline"]) => Promise<Ran>;
  /** Told of each run that ended. */
  readonly ended: (served: Served) => void;
};

/** A schedule that fell due while nobody looked (the machine slept, say) is made up for this long. */
const CATCH_UP_MS = 24 * 60 * 60 * 1000;

/**
 * Serves until it is aborted, or once. A pipeline that fails is told and not started again by the same cause. What may
 * pass (a store that does not answer, a run that another process is at) is logged as `serve-waiting` and tried at the
 * next look; `once` throws it. Resolves, with `once`, to how many pipelines failed or cannot be read. Throws
 * YardMissing, and what looking and running throw besides.
 */
export async function serve({ yard: uri, everyMs, once }: ServeOptions, parts: ServeParts): Promise<number> {
  const { deps } = parts;
  const yard = await openYard(deps.openStore, uri);
  const lookout = createLookout(yard, { sinceMs: deps.now() - CATCH_UP_MS, rest: !once }, deps);
  for (;;) {
    const found = await orWait(once, deps, () => lookout.look());
    let failed = 0;
    const byPipeline = Map.groupBy(found?.starts ?? [], ({ input }) => input.pipeline.key);
    for (const [pipeline, starts] of byPipeline) {
      deps.log({ event: "start-begun", pipeline, starts: starts.map(({ name }) => name) });
      const status = await orWait(once, deps, () => make(pipeline, starts, lookout, parts));
      if (status === "failed") failed += 1;
    }
    if (once) return failed + (found?.unreadable.length ?? 0);
    await pause(everyMs, deps.signal);
  }
}

/** One run for all starts of a pipeline: it reads what lies in the yard now, whichever of them asked. */
async function make(
  pipeline: string,
  starts: readonly Start[],
  lookout: Lookout,
  { deps, run, ended }: ServeParts,
): Promise<Served["outcome"]["status"] | undefined> {
  const [first] = starts;
  if (first === undefined) return undefined;
  const ran = await run(first.input.pipeline).catch((cause: unknown) => failedBy(cause, deps.signal));
  const { outcome, unitsEnded } = ran;
  if (outcome.status === "cancelled") throw deps.signal.reason;
  for (const start of starts) await lookout.keep(start, endOf(outcome));
  ended({ pipeline, starts: starts.map(({ name }) => name), outcome, unitsEnded });
  return outcome.status;
}

/** A run that its runner gave up, as one that failed: a damaged journal must not end all other pipelines' service. */
function failedBy(cause: unknown, signal: AbortSignal): Ran {
  if (signal.aborted || !isVerdict(cause) || cause.code === "FlowRunBusy") throw cause;
  const error = describeError(cause);
  const failure: FailureRecord = { failure: 1, run: null, state: null, error, units: [], unitsFailed: 0 };
  return { outcome: { status: "failed", error: cause.code, cause: cause.message, failure }, unitsEnded: 0 };
}

function endOf(outcome: Served["outcome"]): StartEnd {
  if (outcome.status === "done") return { status: "done", run: outcome.result.run, code: null };
  const { failure, error } = outcome;
  return { status: "failed", run: failure?.run ?? null, code: failure?.error.code ?? error };
}

/** What `work` gives; undefined when what keeps it from being done may pass. */
async function orWait<Result>(once: boolean, deps: StepDeps, work: () => Promise<Result>): Promise<Result | undefined> {
  try {
    return await work();
  } catch (cause) {
    deps.signal.throwIfAborted();
    const mayPass = cause instanceof MergeyardError && (cause.retryable || cause.code === "FlowRunBusy");
    if (once || !mayPass) throw cause;
    deps.log({ event: "serve-waiting", reason: `${cause.code}: ${cause.found ?? cause.message}` });
    return undefined;
  }
}
