// Tasks: arguments and results, Retry, Catch, timeouts, heartbeats and cancellation.
import type { JsonObject } from "../../../core/json.ts";
import { call, type FakeContext, type MachineCase, named } from "./machine-case.ts";

const ok = () => ({ done: true });
const throws = (name: string) => () => {
  throw named(name);
};
/** Fails so many times with the named errors, then gives "ok". */
const failsFirst =
  (...names: string[]) =>
  (_payload: unknown, { before }: FakeContext) => {
    const name = names[before];
    if (name !== undefined) throw named(name);
    return "ok";
  };
const after = { Type: "Succeed" };

const results: MachineCase[] = [
  {
    name: "a task is given its arguments and its result is the output",
    states: { A: call("f", { Arguments: { FunctionName: "f", Payload: { n: "{% $states.input.n * 2 %}" } } }) },
    input: { n: 4 },
    functions: { f: ok },
    output: { done: true },
    calls: [["f", { n: 8 }]],
  },
  {
    name: "Output and Assign see the result and the input",
    states: {
      A: call("f", {
        Assign: { r: "{% $states.result %}" },
        Output: "{% [$states.result, $states.input] %}",
        Next: "B",
      }),
      B: { Type: "Pass", Output: { r: "{% $r %}", input: "{% $states.input %}" }, End: true },
    },
    input: 1,
    functions: { f: () => false },
    output: { r: false, input: [false, 1] },
  },
  {
    name: "tasks are told apart by function, not by state",
    states: { A: call("f", { Next: "B" }), B: call("g", { Next: "C" }), C: call("f") },
    functions: { f: () => 1, g: () => 2 },
    output: 1,
    calls: [
      ["f", {}],
      ["g", 1],
      ["f", 2],
    ],
  },
  {
    name: "an error without Catch ends the execution with its name and message",
    states: { A: call("f") },
    functions: { f: throws("Custom") },
    error: "Custom",
    cause: /made to fail/,
  },
];

function retries(fields: JsonObject, ...more: JsonObject[]): JsonObject {
  return { A: call("f", { Retry: [{ ErrorEquals: ["States.ALL"], ...fields }, ...more] }) };
}
const three = ["E", "E", "E"];

const retry: MachineCase[] = [
  {
    name: "a retrier's defaults: 3 more tries after 1, 2 and 4 seconds",
    states: retries({}),
    functions: { f: failsFirst(...three) },
    output: "ok",
    delays: [1, 2, 4],
    elapsedMs: 7000,
  },
  {
    name: "tries end after MaxAttempts",
    states: retries({}),
    functions: { f: throws("E") },
    error: "E",
    delays: [1, 2, 4],
  },
  {
    name: "MaxAttempts 0 never tries again",
    states: retries({ MaxAttempts: 0 }),
    functions: { f: throws("E") },
    error: "E",
    delays: [],
  },
  {
    name: "MaxDelaySeconds caps the delay",
    states: retries({ IntervalSeconds: 10, BackoffRate: 3, MaxDelaySeconds: 20 }),
    functions: { f: failsFirst(...three) },
    output: "ok",
    delays: [10, 20, 20],
  },
  {
    name: "BackoffRate 1 keeps the delay",
    states: retries({ IntervalSeconds: 2, BackoffRate: 1 }),
    functions: { f: failsFirst(...three) },
    output: "ok",
    delays: [2, 2, 2],
  },
  {
    name: "FULL jitter takes a random part of the delay",
    states: retries({ IntervalSeconds: 4, JitterStrategy: "FULL" }),
    functions: { f: failsFirst("E", "E") },
    output: "ok",
    delays: [1, 2],
  },
  {
    name: "an error that no retrier names is not tried again",
    states: { A: call("f", { Retry: [{ ErrorEquals: ["Other", "Another"] }] }) },
    functions: { f: throws("E") },
    error: "E",
    delays: [],
  },
  {
    name: "each retrier counts its own tries",
    states: {
      A: call("f", {
        Retry: [
          { ErrorEquals: ["One"], MaxAttempts: 1, IntervalSeconds: 5 },
          { ErrorEquals: ["States.ALL"], MaxAttempts: 2, IntervalSeconds: 7, BackoffRate: 1 },
        ],
      }),
    },
    functions: { f: failsFirst("Two", "One", "Two") },
    output: "ok",
    delays: [7, 5, 7],
  },
  {
    name: "a used-up retrier does not hand over to a wider one",
    states: {
      A: call("f", { Retry: [{ ErrorEquals: ["One"], MaxAttempts: 1 }, { ErrorEquals: ["States.ALL"] }] }),
    },
    functions: { f: failsFirst("One", "One") },
    error: "One",
    delays: [1],
  },
  {
    name: "the context counts retries",
    states: {
      A: call("f", {
        Arguments: { FunctionName: "f", Payload: "{% $states.context.State.RetryCount %}" },
        Retry: [{ ErrorEquals: ["E"] }],
      }),
    },
    functions: { f: failsFirst("E", "E") },
    output: "ok",
    calls: [
      ["f", 0],
      ["f", 1],
      ["f", 2],
    ],
  },
];

const caught: MachineCase[] = [
  {
    name: "a catcher without Output gives the error",
    states: { A: call("f", { Catch: [{ ErrorEquals: ["E"], Next: "B" }] }), B: after },
    functions: { f: throws("E") },
    output: { Error: "E", Cause: "made to fail" },
  },
  {
    name: "a catcher's Output and Assign see the error and the input",
    states: {
      A: call("f", {
        Output: "not used",
        Catch: [
          {
            ErrorEquals: ["States.ALL"],
            Next: "B",
            Assign: { why: "{% $states.errorOutput.Error %}" },
            Output: "{% $states.input %}",
          },
        ],
      }),
      B: { Type: "Succeed", Output: "{% [$why, $states.input] %}" },
    },
    input: 3,
    functions: { f: throws("E") },
    output: ["E", 3],
  },
  {
    name: "the first catcher that names the error wins",
    states: {
      A: call("f", {
        Catch: [
          { ErrorEquals: ["Other"], Next: "B", Output: 1 },
          { ErrorEquals: ["E", "F"], Next: "B", Output: 2 },
          { ErrorEquals: ["States.ALL"], Next: "B", Output: 3 },
        ],
      }),
      B: after,
    },
    functions: { f: throws("E") },
    output: 2,
  },
  {
    name: "an error that no catcher names ends the execution",
    states: { A: call("f", { Catch: [{ ErrorEquals: ["Other"], Next: "B" }], Next: "B" }), B: after },
    functions: { f: throws("E") },
    error: "E",
  },
  {
    name: "Catch comes after the last retry",
    states: {
      A: call("f", {
        Retry: [{ ErrorEquals: ["E"], MaxAttempts: 2 }],
        Catch: [{ ErrorEquals: ["E"], Next: "B", Output: "caught" }],
      }),
      B: after,
    },
    functions: { f: throws("E") },
    output: "caught",
    delays: [1, 2],
  },
  {
    name: "States.TaskFailed catches a task's error",
    states: { A: call("f", { Catch: [{ ErrorEquals: ["States.TaskFailed"], Next: "B", Output: 1 }] }), B: after },
    functions: { f: throws("E") },
    output: 1,
  },
  {
    name: "States.TaskFailed does not catch a timeout",
    states: {
      A: call("f", { TimeoutSeconds: 1, Catch: [{ ErrorEquals: ["States.TaskFailed"], Next: "B" }] }),
      B: after,
    },
    functions: { f: (_payload, { pass }) => pass(5000) },
    error: "States.Timeout",
  },
  {
    name: "an expression that fails in Arguments or Output can be caught",
    states: {
      A: call("f", { Output: "{% $states.result.no %}", Catch: [{ ErrorEquals: ["States.ALL"], Next: "B" }] }),
      B: { Type: "Succeed", Output: "{% $states.input.Error %}" },
    },
    functions: { f: ok },
    output: "States.QueryEvaluationError",
  },
  {
    name: "a failure while catching ends the execution",
    states: {
      A: call("f", { Catch: [{ ErrorEquals: ["States.ALL"], Next: "B", Output: "{% $states.result %}" }] }),
      B: after,
    },
    functions: { f: throws("E") },
    error: "States.QueryEvaluationError",
  },
];

const slow = (_payload: unknown, { pass }: FakeContext) => pass(3_600_000);

const times: MachineCase[] = [
  {
    name: "a task without TimeoutSeconds may take a year",
    states: { A: call("f", { Output: "done" }) },
    functions: { f: (_payload, { pass }) => pass(31_536_000_000).then(ok) },
    output: "done",
    elapsedMs: 31_536_000_000,
  },
  {
    name: "a late task is told to stop and fails",
    states: { A: call("f", { TimeoutSeconds: 60 }) },
    functions: { f: slow },
    error: "States.Timeout",
    elapsedMs: 60_000,
  },
  {
    name: "TimeoutSeconds may be an expression",
    states: { A: call("f", { TimeoutSeconds: "{% $states.input.t %}" }) },
    input: { t: 5 },
    functions: { f: slow },
    error: "States.Timeout",
    elapsedMs: 5000,
  },
  {
    name: "TimeoutSeconds that gives no integer fails",
    states: { A: call("f", { TimeoutSeconds: "{% 'soon' %}" }) },
    functions: { f: ok },
    error: "States.QueryEvaluationError",
    calls: [],
  },
  {
    name: "a late task that does not listen is waited for until the grace is over",
    states: { A: call("f", { TimeoutSeconds: 60 }) },
    functions: { f: (_payload, { ignore }) => ignore(65_000) },
    error: "States.Timeout",
    elapsedMs: 65_000,
  },
  {
    name: "a timeout can be retried",
    states: { A: call("f", { TimeoutSeconds: 60, Output: "done", Retry: [{ ErrorEquals: ["States.Timeout"] }] }) },
    functions: { f: (payload, context) => (context.before === 0 ? slow(payload, context) : ok()) },
    output: "done",
    elapsedMs: 61_000,
  },
  {
    name: "a task that beats in time lives on",
    states: { A: call("f", { HeartbeatSeconds: 10, Output: "done" }) },
    functions: {
      f: async (_payload, { pass, heartbeat }) => {
        for (let beat = 0; beat < 5; beat += 1) {
          await pass(9000);
          heartbeat();
        }
        return "ok";
      },
    },
    output: "done",
    elapsedMs: 45_000,
  },
  {
    name: "a silent task fails after HeartbeatSeconds",
    states: { A: call("f", { HeartbeatSeconds: 10, TimeoutSeconds: 100 }) },
    functions: { f: slow },
    error: "States.HeartbeatTimeout",
    elapsedMs: 10_000,
  },
  {
    name: "States.Timeout also catches a lost heartbeat",
    states: {
      A: call("f", { HeartbeatSeconds: 10, Catch: [{ ErrorEquals: ["States.Timeout"], Next: "B", Output: 1 }] }),
      B: after,
    },
    functions: { f: slow },
    output: 1,
  },
  {
    name: "the machine's TimeoutSeconds ends it, whatever is caught",
    states: { A: call("f", { Catch: [{ ErrorEquals: ["States.ALL"], Next: "B" }] }), B: after },
    timeoutSeconds: 30,
    functions: { f: slow },
    status: "TIMED_OUT",
    error: "States.Timeout",
    elapsedMs: 30_000,
  },
];

const cancelled: MachineCase[] = [
  {
    name: "cancellation stops the running task and nothing catches it",
    states: {
      A: call("f", {
        Retry: [{ ErrorEquals: ["States.ALL"] }],
        Catch: [{ ErrorEquals: ["States.ALL"], Next: "B" }],
      }),
      B: call("g"),
    },
    functions: { f: slow, g: ok },
    abortAfterMs: 2000,
    status: "ABORTED",
    calls: [["f", {}]],
    elapsedMs: 2000,
  },
  {
    name: "cancellation waits for a task that needs a moment to stop",
    states: { A: call("f") },
    functions: { f: (_payload, { ignore }) => ignore(4000) },
    abortAfterMs: 2000,
    status: "ABORTED",
    elapsedMs: 4000,
  },
  {
    name: "cancellation ends a Wait",
    states: { A: { Type: "Wait", Seconds: 1000, End: true } },
    abortAfterMs: 2000,
    status: "ABORTED",
    elapsedMs: 2000,
  },
  {
    name: "cancellation ends the delay before a retry",
    states: { A: call("f", { Retry: [{ ErrorEquals: ["E"], IntervalSeconds: 1000 }] }) },
    functions: { f: throws("E") },
    abortAfterMs: 2000,
    status: "ABORTED",
    calls: [["f", {}]],
    elapsedMs: 2000,
  },
];

export const taskCases = [...results, ...retry, ...caught, ...times, ...cancelled];
