// One execution of a loaded machine, from its input to its end. Every finished state is put in the journal before the
// next one starts; a state that the journal knows is not run again.
import assert from "node:assert/strict";
import type { Json } from "../../core/json.ts";
import { type Clock, systemClock } from "./clock.ts";
import { isStateFailure } from "./failure.ts";
import { runMap, runParallel } from "./fan-out.ts";
import type { Execution, FlowEvent, Frame, Visit } from "./frame.ts";
import { type Entropy, systemEntropy } from "./functions.ts";
import { type Finished, type Journal, journalKey, noJournal } from "./journal.ts";
import { limited } from "./json.ts";
import { GRACE_MS } from "./limits.ts";
import type { Machine, State, StateTable } from "./machine.ts";
import { assignVariables, createScope, pickVariables } from "./scope.ts";
import { runChoice, runFail, runPass, runSucceed, runTaskState, runWait } from "./states.ts";
import type { TaskTable } from "./task.ts";

export type ExecutionOptions = {
  readonly machine: Machine;
  readonly input: Json;
  readonly tasks: TaskTable;
  /** `$states.context.Execution.Name`. */
  readonly name: string;
  readonly signal?: AbortSignal | undefined;
  readonly journal?: Journal | undefined;
  readonly clock?: Clock | undefined;
  readonly entropy?: Entropy | undefined;
  /** How long a task may go on after it was told to stop. */
  readonly graceMs?: number | undefined;
  readonly onEvent?: ((event: FlowEvent) => void) | undefined;
};

/** How an execution ended; the words are the service's. */
export type ExecutionResult =
  | { readonly status: "SUCCEEDED"; readonly output: Json }
  | { readonly status: "FAILED" | "TIMED_OUT"; readonly error: string; readonly cause: string }
  | { readonly status: "ABORTED" };

/**
 * Runs a machine. Failure, time-out and cancellation are results; a rejection means that the interpreter itself could
 * not go on (the journal could not be written) and that the execution can be resumed.
 */
export async function execute(options: ExecutionOptions): Promise<ExecutionResult> {
  const { machine, input } = options;
  const clock = options.clock ?? systemClock;
  const controller = new AbortController();
  const signals = options.signal === undefined ? [controller.signal] : [options.signal, controller.signal];
  const signal = AbortSignal.any(signals);
  const execution: Execution = {
    machine,
    name: options.name,
    input,
    startMs: clock.now(),
    tasks: options.tasks,
    journal: options.journal ?? noJournal,
    clock,
    entropy: options.entropy ?? systemEntropy,
    graceMs: options.graceMs ?? GRACE_MS,
    onEvent: options.onEvent ?? (() => undefined),
    runTable,
  };
  const seconds = machine.timeoutSeconds;
  const cancel = seconds === undefined ? () => undefined : clock.after(seconds * 1000, () => controller.abort());
  try {
    limited(input, "the input of the execution");
    const frame: Frame = { execution, path: "", scope: createScope(undefined), signal, item: undefined };
    return { status: "SUCCEEDED", output: await runTable(machine, input, frame) };
  } catch (error) {
    if (options.signal?.aborted === true) return { status: "ABORTED" };
    if (controller.signal.aborted) {
      return { status: "TIMED_OUT", error: "States.Timeout", cause: `the execution took longer than ${seconds} s` };
    }
    if (isStateFailure(error)) return { status: "FAILED", error: error.name, cause: error.message };
    throw error;
  } finally {
    cancel();
  }
}

async function runTable(table: StateTable, input: Json, frame: Frame): Promise<Json> {
  let current = input;
  let name: string | null = table.startAt;
  for (let sequence = 0; name !== null; sequence += 1) {
    frame.signal.throwIfAborted();
    const state: State | undefined = table.states.get(name);
    assert.ok(state !== undefined, `no state ${name} in a definition that was checked`);
    const path: string = `${frame.path}${sequence}:${name}`;
    const finished: Finished = await runJournaled(state, { frame, name, path, input: current, retryCount: 0 });
    assignVariables(frame.scope, finished.assigned);
    current = finished.output;
    name = finished.next;
  }
  return current;
}

async function runJournaled(state: State, visit: Visit): Promise<Finished> {
  const { execution, scope } = visit.frame;
  const { journal, machine, onEvent } = execution;
  const place = { state: visit.name, path: visit.path };
  const key = journalKey(visit.path, machine.digest, visit.input, pickVariables(scope, state.variables));
  const known = journal.find(key);
  if (known !== undefined) {
    onEvent({ event: "state-replayed", ...place });
    return known;
  }
  onEvent({ event: "state-entered", ...place, type: state.type });
  const finished = await runState(state, visit);
  await journal.record(key, finished);
  onEvent({ event: "state-finished", ...place, next: finished.next, caught: finished.caught });
  return finished;
}

function runState(state: State, visit: Visit): Promise<Finished> {
  switch (state.type) {
    case "Pass":
      return runPass(state, visit);
    case "Succeed":
      return runSucceed(state, visit);
    case "Fail":
      return runFail(state, visit);
    case "Wait":
      return runWait(state, visit);
    case "Choice":
      return runChoice(state, visit);
    case "Task":
      return runTaskState(state, visit);
    case "Parallel":
      return runParallel(state, visit);
    case "Map":
      return runMap(state, visit);
  }
}
