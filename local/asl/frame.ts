// What running states share (the execution) and what differs from place to place in it (the frame).
import type { Json, JsonObject } from "../../core/json.ts";
import type { Clock } from "./clock.ts";
import type { Bindings, Template } from "./expression.ts";
import { stateFailure } from "./failure.ts";
import { type Entropy, serviceFunctions } from "./functions.ts";
import type { Finished, Journal } from "./journal.ts";
import { limited } from "./json.ts";
import type { Machine, Results, StateTable } from "./machine.ts";
import { checkAssigned, type Scope, visibleVariables } from "./scope.ts";
import type { TaskTable } from "./task.ts";

/** What happened to a state, for whoever watches. */
export type FlowEvent = {
  readonly event: "state-entered" | "state-finished" | "state-replayed" | "state-retried" | "state-caught";
  readonly state: string;
  readonly path: string;
  readonly [field: string]: unknown;
};

export type Execution = {
  readonly machine: Machine;
  readonly name: string;
  readonly input: Json;
  readonly startMs: number;
  readonly tasks: TaskTable;
  readonly journal: Journal;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly graceMs: number;
  readonly onEvent: (event: FlowEvent) => void;
  /** Runs the states of a table from its start to an end. */
  readonly runTable: (table: StateTable, input: Json, frame: Frame) => Promise<Json>;
};

export type Frame = {
  readonly execution: Execution;
  /** Path of the machine that the state stands in: "" or ending in "/". */
  readonly path: string;
  readonly scope: Scope;
  /** Aborted when what this frame does is not wanted any more. */
  readonly signal: AbortSignal;
  /** `$states.context.Map.Item` inside a map. */
  readonly item: { readonly Index: number; readonly Value: Json } | undefined;
};

/** One state on its way: where it is, what it was given, how often it was tried. */
export type Visit = {
  readonly frame: Frame;
  readonly name: string;
  readonly path: string;
  readonly input: Json;
  readonly retryCount: number;
};

/** Fields of `$states` beside `input` and `context`. */
export type StatesExtra = { readonly result?: Json; readonly errorOutput?: Json };

/** What an expression of a state sees. */
export function bindingsOf(visit: Visit, extra: StatesExtra = {}): Bindings {
  const { frame } = visit;
  return {
    ...serviceFunctions(frame.execution.entropy),
    ...visibleVariables(frame.scope),
    states: { input: visit.input, context: contextOf(visit), ...extra },
  };
}

function contextOf(visit: Visit): JsonObject {
  const { execution, item } = visit.frame;
  const start = new Date(execution.startMs).toISOString();
  return {
    Execution: { Id: execution.name, Name: execution.name, Input: execution.input, StartTime: start, RedriveCount: 0 },
    State: {
      Name: visit.name,
      EnteredTime: new Date(execution.clock.now()).toISOString(),
      RetryCount: visit.retryCount,
    },
    StateMachine: { Id: execution.machine.digest, Name: execution.machine.digest },
    ...(item === undefined ? {} : { Map: { Item: { Index: item.Index, Value: item.Value } } }),
  };
}

/**
 * Output and Assign of a state or of one of its rules, both from the variables before it. Without Output the state
 * gives `otherwise`.
 */
export async function finish(
  visit: Visit,
  results: Results,
  next: string | null,
  otherwise: Json,
  extra: StatesExtra = {},
): Promise<Finished> {
  const bindings = bindingsOf(visit, extra);
  const values: [string, Json][] = [];
  for (const [name, template] of results.assign) values.push([name, await template.evaluate(bindings)]);
  const assigned = Object.fromEntries(values);
  checkAssigned(visit.frame.scope, assigned);
  const output = results.output === undefined ? otherwise : await results.output.evaluate(bindings);
  return { output: limited(output, "the output of the state"), assigned, next, caught: null };
}

/** An integer that a definition gives as a number or as an expression; undefined when it gives none. */
export async function evaluateInteger(
  template: Template | undefined,
  bindings: Bindings,
  min: number,
  max: number,
): Promise<number | undefined> {
  const value = await template?.evaluate(bindings);
  if (value === undefined) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
  throw stateFailure(
    "States.QueryEvaluationError",
    `${template?.field} gave ${JSON.stringify(value)}, not an integer from ${min} to ${max}`,
  );
}
