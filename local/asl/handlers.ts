// Retry and Catch of Task, Parallel and Map states.
import { sleep } from "./clock.ts";
import { errorOutput, isStateFailure, matchesError } from "./failure.ts";
import { finish, type Visit } from "./frame.ts";
import type { Finished } from "./journal.ts";
import type { Handlers } from "./machine.ts";
import type { RetrierDocument } from "./schema.ts";

/**
 * Seconds before try `attempt` (1 for the first repetition): IntervalSeconds x BackoffRate^(attempt - 1), at most
 * MaxDelaySeconds; with FULL jitter anything from 0 up to that.
 */
function retryDelaySeconds(retrier: RetrierDocument, attempt: number, random: () => number): number {
  const backoff = retrier.IntervalSeconds * retrier.BackoffRate ** (attempt - 1);
  const capped = Math.min(backoff, retrier.MaxDelaySeconds ?? Number.MAX_SAFE_INTEGER);
  return retrier.JitterStrategy === "FULL" ? capped * random() : capped;
}

/**
 * Runs one try after another until one succeeds or no retrier takes its error, then the first catcher that names it.
 * What is no failure of a state (cancellation, a lost journal) is thrown on.
 */
export async function withHandlers(
  visit: Visit,
  handlers: Handlers,
  attempt: (visit: Visit) => Promise<Finished>,
): Promise<Finished> {
  const { execution, signal } = visit.frame;
  const tries = new Map<RetrierDocument, number>();
  for (let retryCount = 0; ; retryCount += 1) {
    const current = { ...visit, retryCount };
    try {
      return await attempt(current);
    } catch (error) {
      signal.throwIfAborted();
      if (!isStateFailure(error)) throw error;
      const retrier = handlers.retry.find((entry) => matchesError(entry.ErrorEquals, error.name));
      const tried = retrier === undefined ? 0 : (tries.get(retrier) ?? 0) + 1;
      if (retrier === undefined || tried > retrier.MaxAttempts) return await catchFailure(current, handlers, error);
      tries.set(retrier, tried);
      const delaySeconds = retryDelaySeconds(retrier, tried, execution.entropy.random);
      execution.onEvent({
        event: "state-retried",
        state: visit.name,
        path: visit.path,
        error: error.name,
        cause: error.message,
        delaySeconds,
      });
      await sleep(execution.clock, delaySeconds * 1000, signal);
    }
  }
}

async function catchFailure(visit: Visit, handlers: Handlers, failure: Error): Promise<Finished> {
  const catcher = handlers.catch.find((entry) => matchesError(entry.errorEquals, failure.name));
  if (catcher === undefined) throw failure;
  const output = errorOutput(failure);
  visit.frame.execution.onEvent({
    event: "state-caught",
    state: visit.name,
    path: visit.path,
    error: failure.name,
    cause: failure.message,
  });
  const finished = await finish(visit, catcher, catcher.next, output, { errorOutput: output });
  return { ...finished, caught: failure.name };
}
