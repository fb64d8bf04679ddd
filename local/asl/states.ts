// What each type of state does: one function per type, from a visit to what the state leaves behind. Parallel and Map
// are in fan-out.ts.
import assert from "node:assert/strict";
import { sleep } from "./clock.ts";
import { stateFailure } from "./failure.ts";
import { bindingsOf, evaluateInteger, finish, type Visit } from "./frame.ts";
import { withHandlers } from "./handlers.ts";
import type { Finished } from "./journal.ts";
import { limited } from "./json.ts";
import { SECONDS_MAX } from "./limits.ts";
import type { ChoiceState, FailState, PassState, SucceedState, TaskState, WaitState } from "./machine.ts";
import { runTask } from "./task.ts";

export function runPass(state: PassState, visit: Visit): Promise<Finished> {
  return finish(visit, state, state.next, visit.input);
}

export function runSucceed(state: SucceedState, visit: Visit): Promise<Finished> {
  return finish(visit, state, null, visit.input);
}

/** Always fails, with the error and cause that the state gives. */
export async function runFail(state: FailState, visit: Visit): Promise<never> {
  const bindings = bindingsOf(visit);
  const error = await state.error?.evaluate(bindings);
  const cause = await state.cause?.evaluate(bindings);
  throw stateFailure(requireText(error, "Error"), requireText(cause, "Cause"));
}

function requireText(value: unknown, field: string): string {
  if (value === undefined) return "";
  if (typeof value === "string") return value;
  throw stateFailure("States.QueryEvaluationError", `${field} gave ${JSON.stringify(value)}, not a string`);
}

export async function runWait(state: WaitState, visit: Visit): Promise<Finished> {
  const { clock } = visit.frame.execution;
  const bindings = bindingsOf(visit);
  const seconds = await evaluateInteger(state.seconds, bindings, 0, SECONDS_MAX);
  const timestamp = await state.timestamp?.evaluate(bindings);
  const ms = seconds === undefined ? parseTimestamp(timestamp) - clock.now() : seconds * 1000;
  if (ms > 0) await sleep(clock, ms, visit.frame.signal);
  return finish(visit, state, state.next, visit.input);
}

/** RFC 3339 with an upper-case T, and Z or an offset. */
const TIMESTAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

function parseTimestamp(value: unknown): number {
  const ms = typeof value === "string" && TIMESTAMP.test(value) ? Date.parse(value) : Number.NaN;
  if (!Number.isNaN(ms)) return ms;
  throw stateFailure("States.QueryEvaluationError", `Timestamp gave ${JSON.stringify(value)}, not an RFC 3339 time`);
}

/** The first rule whose condition is true; else Default, with the state's own Output and Assign. */
export async function runChoice(state: ChoiceState, visit: Visit): Promise<Finished> {
  const bindings = bindingsOf(visit);
  for (const rule of state.rules) {
    const value = await rule.condition.evaluate(bindings);
    if (typeof value !== "boolean") {
      const cause = `${rule.condition.field} gave ${JSON.stringify(value)}, not true or false`;
      throw stateFailure("States.QueryEvaluationError", cause);
    }
    if (value) return finish(visit, rule, rule.next, visit.input);
  }
  if (state.default === undefined) {
    throw stateFailure("States.NoChoiceMatched", `no rule of ${state.name} matched and it has no Default`);
  }
  return finish(visit, state, state.default, visit.input);
}

export function runTaskState(state: TaskState, visit: Visit): Promise<Finished> {
  const { execution, signal } = visit.frame;
  const task = execution.tasks.get(state.resource);
  assert.ok(task !== undefined, `no task for ${state.resource}, which the definition was loaded with`);
  return withHandlers(visit, state, async (current) => {
    const bindings = bindingsOf(current);
    const input = (await state.arguments?.evaluate(bindings)) ?? current.input;
    const result = await runTask(task, limited(input, "what the task is given"), {
      clock: execution.clock,
      signal,
      graceMs: execution.graceMs,
      timeoutSeconds: await evaluateInteger(state.timeoutSeconds, bindings, 1, SECONDS_MAX),
      heartbeatSeconds: await evaluateInteger(state.heartbeatSeconds, bindings, 1, SECONDS_MAX),
    });
    return finish(current, state, state.next, result, { result });
  });
}
