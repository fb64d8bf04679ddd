// One tiny machine with what it must do. Its tasks are Lambda functions, faked by name.
import assert from "node:assert/strict";
import { isJsonObject, type Json, type JsonObject } from "../../../core/json.ts";
import { sleep } from "../../../local/asl/clock.ts";
import { type ExecutionResult, execute } from "../../../local/asl/execute.ts";
import type { FlowEvent } from "../../../local/asl/frame.ts";
import type { Journal } from "../../../local/asl/journal.ts";
import { loadMachine } from "../../../local/asl/load.ts";
import type { TaskContext, TaskFunction } from "../../../local/asl/task.ts";
import { createFakeClock } from "./fake-clock.ts";

export const LAMBDA = "arn:aws:states:::lambda:invoke";

/** What a fake function is given besides its payload. */
export type FakeContext = TaskContext & {
  /** Takes so long, by the fake clock; ends early when it is told to stop. */
  readonly pass: (ms: number) => Promise<void>;
  /** Takes so long, and does not listen. */
  readonly ignore: (ms: number) => Promise<void>;
  /** How often this function was called before. */
  readonly before: number;
};
export type FakeFunction = (payload: Json, context: FakeContext) => unknown;

export type MachineCase = {
  readonly name: string;
  readonly states: JsonObject;
  /** The first state unless given. */
  readonly startAt?: string;
  readonly timeoutSeconds?: number;
  readonly input?: Json;
  readonly functions?: Readonly<Record<string, FakeFunction>>;
  readonly output?: Json;
  readonly error?: string;
  readonly cause?: RegExp;
  readonly status?: ExecutionResult["status"];
  /** Functions called, in order, with their payloads. */
  readonly calls?: readonly (readonly [string, Json])[];
  /** Delays before repetitions, in seconds. */
  readonly delays?: readonly number[];
  /** Time by the fake clock from start to end. */
  readonly elapsedMs?: number;
  /** Aborts the execution after so long. */
  readonly abortAfterMs?: number;
};

/** An error as a function throws it: the error name, the cause. */
export function named(name: string, message = "made to fail"): Error {
  return Object.assign(new Error(message), { name });
}

/** A Task state that calls a function. */
export function call(functionName: string, fields: JsonObject = {}): JsonObject {
  return {
    Type: "Task",
    Resource: LAMBDA,
    Arguments: { FunctionName: functionName, Payload: "{% $states.input %}" },
    ...("Next" in fields ? {} : { End: true }),
    ...fields,
  };
}

export type CaseRun = {
  readonly result: ExecutionResult;
  readonly calls: readonly (readonly [string, Json])[];
  readonly events: readonly FlowEvent[];
  readonly elapsedMs: number;
  readonly timersLeft: number;
};

export function definitionOf(test: Pick<MachineCase, "states" | "startAt" | "timeoutSeconds">): JsonObject {
  return {
    QueryLanguage: "JSONata",
    StartAt: test.startAt ?? Object.keys(test.states)[0] ?? "",
    States: test.states,
    ...(test.timeoutSeconds === undefined ? {} : { TimeoutSeconds: test.timeoutSeconds }),
  };
}

export async function runCase(test: MachineCase, journal?: Journal): Promise<CaseRun> {
  const clock = createFakeClock();
  const startMs = clock.now();
  const calls: [string, Json][] = [];
  const events: FlowEvent[] = [];
  const never = new AbortController().signal;
  const invoke: TaskFunction = async (input, context) => {
    assert.ok(isJsonObject(input) && typeof input.FunctionName === "string");
    const payload = input.Payload ?? null;
    const before = calls.filter(([name]) => name === input.FunctionName).length;
    calls.push([input.FunctionName, payload]);
    const fake = test.functions?.[input.FunctionName];
    assert.ok(fake, `no fake function ${input.FunctionName}`);
    return await fake(payload, {
      ...context,
      before,
      pass: (ms) => sleep(clock, ms, context.signal),
      ignore: (ms) => sleep(clock, ms, never),
    });
  };
  const controller = new AbortController();
  if (test.abortAfterMs !== undefined) clock.after(test.abortAfterMs, () => controller.abort(named("Stopped")));
  const result = await execute({
    machine: loadMachine(definitionOf(test), { resources: new Set([LAMBDA]) }),
    input: test.input ?? {},
    tasks: new Map([[LAMBDA, invoke]]),
    name: "case",
    clock,
    entropy: { random: () => 0.25, uuid: () => "00000000-0000-4000-8000-000000000000" },
    graceMs: 10_000,
    signal: controller.signal,
    journal,
    onEvent: (event) => events.push(event),
  });
  return { result, calls, events, elapsedMs: clock.now() - startMs, timersLeft: clock.pending() };
}

/** Runs a case and compares everything that it states. */
export async function checkCase(test: MachineCase): Promise<void> {
  const run = await runCase(test);
  const status = test.status ?? (test.error === undefined ? "SUCCEEDED" : "FAILED");
  if (run.result.status === "FAILED" && status === "SUCCEEDED") assert.fail(`${run.result.error}: ${run.result.cause}`);
  assert.equal(run.result.status, status);
  if (run.result.status === "SUCCEEDED") assert.deepEqual(run.result.output, test.output);
  if (test.error !== undefined) {
    assert.ok("error" in run.result);
    assert.equal(run.result.error, test.error);
    if (test.cause !== undefined) assert.match(run.result.cause, test.cause);
  }
  if (test.calls !== undefined) assert.deepEqual(run.calls, test.calls);
  const retried = run.events.filter((event) => event.event === "state-retried");
  if (test.delays !== undefined) {
    assert.deepEqual(
      retried.map((event) => event.delaySeconds),
      test.delays,
    );
  }
  if (test.elapsedMs !== undefined) assert.equal(run.elapsedMs, test.elapsedMs);
  if (test.abortAfterMs === undefined) assert.equal(run.timersLeft, 0, "a timer was left running");
}
