// Parallel and Map: several runs of inner machines at one time. The first failure cancels the others; the state fails
// only after they stopped.
import type { Json } from "../../core/json.ts";
import { isStateFailure, stateFailure } from "./failure.ts";
import { bindingsOf, evaluateInteger, type Frame, finish, type Visit } from "./frame.ts";
import { withHandlers } from "./handlers.ts";
import type { Finished } from "./journal.ts";
import { limited } from "./json.ts";
import { MAP_CONCURRENCY_MAX } from "./limits.ts";
import type { MapState, ParallelState } from "./machine.ts";
import { createScope } from "./scope.ts";

export function runParallel(state: ParallelState, visit: Visit): Promise<Finished> {
  return withHandlers(visit, state, async (current) => {
    const given = (await state.arguments?.evaluate(bindingsOf(current))) ?? current.input;
    const input = limited(given, "what the branches are given");
    const results = await runAll(state.branches, state.branches.length, current.frame.signal, (branch, index, signal) =>
      current.frame.execution.runTable(branch, input, innerFrame(current, index, signal)),
    );
    const result = limited(results, "the results of the branches");
    return finish(current, state, state.next, result, { result });
  });
}

export function runMap(state: MapState, visit: Visit): Promise<Finished> {
  return withHandlers(visit, state, async (current) => {
    const bindings = bindingsOf(current);
    const items = state.items === undefined ? current.input : await state.items.evaluate(bindings);
    if (!Array.isArray(items)) {
      const field = state.items?.field ?? "the input of the Map";
      throw stateFailure("States.QueryEvaluationError", `${field} gave ${typeof items}, not an array`);
    }
    const asked = await evaluateInteger(state.maxConcurrency, bindings, 0, Number.MAX_SAFE_INTEGER);
    const concurrency = asked === undefined || asked === 0 ? MAP_CONCURRENCY_MAX : asked;
    const lanes = Math.min(concurrency, MAP_CONCURRENCY_MAX);
    const results = await runAll(items, lanes, current.frame.signal, (value: Json, index, signal) =>
      runItem(state, current, value, index, signal),
    ).catch((error: unknown) => {
      throw state.distributed && isStateFailure(error) ? tooManyFailures(error) : error;
    });
    const result = limited(results, "the results of the iterations");
    return finish(current, state, state.next, result, { result });
  });
}

/** How a distributed map fails: it tolerates no failed iteration. */
function tooManyFailures(first: Error): Error {
  const cause = `an iteration failed: ${first.name}: ${first.message}`;
  return stateFailure("States.ExceedToleratedFailureThreshold", cause);
}

async function runItem(state: MapState, visit: Visit, value: Json, index: number, signal: AbortSignal): Promise<Json> {
  const inner = innerFrame(visit, index, signal);
  const frame: Frame = {
    ...inner,
    // Iterations of a distributed map are executions of their own: they share no variables with this one.
    scope: state.distributed ? createScope(undefined) : inner.scope,
    item: { Index: index, Value: value },
  };
  const input =
    state.itemSelector === undefined ? value : await state.itemSelector.evaluate(bindingsOf({ ...visit, frame }));
  return frame.execution.runTable(state.processor, limited(input, "the input of an iteration"), frame);
}

/** The frame of branch or iteration `index`; its path also names the try, so that tries never share journal entries. */
function innerFrame(visit: Visit, index: number, signal: AbortSignal): Frame {
  const attempt = visit.retryCount === 0 ? "" : `~${visit.retryCount}`;
  return {
    ...visit.frame,
    path: `${visit.path}${attempt}/${index}/`,
    scope: createScope(visit.frame.scope),
    signal,
  };
}

/**
 * `work` over all items, at most `concurrency` at one time, results in the items' order. The first failure aborts the
 * signal that the others were given; it is thrown when all have ended.
 */
async function runAll<Item>(
  items: readonly Item[],
  concurrency: number,
  outer: AbortSignal,
  work: (item: Item, index: number, signal: AbortSignal) => Promise<Json>,
): Promise<Json[]> {
  const controller = new AbortController();
  const signal = AbortSignal.any([outer, controller.signal]);
  const results: Json[] = new Array<Json>(items.length).fill(null);
  const failures: unknown[] = [];
  const queue = items.entries();
  const lane = async (): Promise<void> => {
    for (const [index, item] of queue) {
      if (signal.aborted) return;
      try {
        results[index] = await work(item, index, signal);
      } catch (error) {
        failures.push(error);
        controller.abort(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, items.length) }, lane));
  outer.throwIfAborted();
  if (failures.length > 0) throw failures[0];
  return results;
}
