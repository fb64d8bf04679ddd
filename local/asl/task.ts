// One call of a task: its timeout and heartbeat, and its cancellation. A task is told to stop through its signal and
// then given a grace period; the execution does not go on before it stopped or the grace is over.
import type { Json } from "../../core/json.ts";
import type { Clock } from "./clock.ts";
import { stateFailure, taskFailure } from "./failure.ts";
import { limited, toJson } from "./json.ts";

export type TaskContext = {
  /** Aborted when the result is not wanted any more (timeout, cancellation, failure beside it). */
  readonly signal: AbortSignal;
  /** Says that the task is alive; needed only where a state has HeartbeatSeconds. */
  readonly heartbeat: () => void;
};

/** The work behind a Resource. What it rejects with fails the state: the error's name, its message as the cause. */
export type TaskFunction = (input: Json, context: TaskContext) => Promise<unknown>;

/** Tasks by Resource. */
export type TaskTable = ReadonlyMap<string, TaskFunction>;

export type TaskLimits = {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly graceMs: number;
  /** None when undefined: as on the service, a task without a timeout may take for ever. */
  readonly timeoutSeconds: number | undefined;
  readonly heartbeatSeconds: number | undefined;
};

/**
 * Runs a task to its result. Fails with States.Timeout or States.HeartbeatTimeout when it is late, with
 * States.DataLimitExceeded when the result is too large; rejects with the signal's reason when it was cancelled.
 */
export async function runTask(task: TaskFunction, input: Json, limits: TaskLimits): Promise<Json> {
  limits.signal.throwIfAborted();
  const { clock, timeoutSeconds, heartbeatSeconds } = limits;
  const controller = new AbortController();
  const stopped = Promise.withResolvers<Stop>();
  const onAbort = (): void => stopped.resolve({ cancelled: true });
  limits.signal.addEventListener("abort", onAbort, { once: true });
  const timeout = startTimer(clock, timeoutSeconds, () => stopped.resolve(late("States.Timeout", timeoutSeconds)));
  const pulse = startPulse(clock, heartbeatSeconds, () =>
    stopped.resolve(late("States.HeartbeatTimeout", heartbeatSeconds)),
  );
  const work = settle(task, input, { signal: controller.signal, heartbeat: pulse.beat });
  try {
    const first = await Promise.race([work, stopped.promise]);
    if ("value" in first) return limited(toJson(first.value, "States.Runtime", "the task"), "the result of the task");
    if ("failure" in first) throw first.failure;
    const reason: unknown = first.late ?? limits.signal.reason;
    controller.abort(reason);
    await withinGrace(clock, limits.graceMs, work);
    throw reason;
  } finally {
    limits.signal.removeEventListener("abort", onAbort);
    timeout();
    pulse.end();
  }
}

type Settled = { readonly value: unknown } | { readonly failure: Error };
type Stop = { readonly cancelled: true; readonly late?: undefined } | { readonly late: Error };

/** The task's end, either way; never rejects. */
async function settle(task: TaskFunction, input: Json, context: TaskContext): Promise<Settled> {
  try {
    return { value: await task(input, context) };
  } catch (error) {
    return { failure: taskFailure(error) };
  }
}

function late(error: string, seconds: number | undefined): Stop {
  return { late: stateFailure(error, `the task did not answer within ${seconds} s`) };
}

function startTimer(clock: Clock, seconds: number | undefined, callback: () => void): () => void {
  return seconds === undefined ? () => undefined : clock.after(seconds * 1000, callback);
}

/** A timer that every beat starts anew, until it is ended. */
function startPulse(clock: Clock, seconds: number | undefined, onSilence: () => void) {
  let ended = false;
  let cancel = startTimer(clock, seconds, onSilence);
  return {
    beat: (): void => {
      if (ended) return;
      cancel();
      cancel = startTimer(clock, seconds, onSilence);
    },
    end: (): void => {
      ended = true;
      cancel();
    },
  };
}

/** Waits until the work ends, but no longer than the grace. */
async function withinGrace(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
  const over = Promise.withResolvers<void>();
  const cancel = clock.after(ms, () => over.resolve());
  await Promise.race([work, over.promise]);
  cancel();
}
