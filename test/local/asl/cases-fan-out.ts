// Parallel and Map: order, scopes, concurrency, nesting, failure and cancellation.
import type { JsonObject } from "../../../core/json.ts";
import { call, type FakeContext, type MachineCase, named } from "./machine-case.ts";

function branch(...states: [string, JsonObject][]): JsonObject {
  return { StartAt: states[0]?.[0] ?? "", States: Object.fromEntries(states) };
}
function each(processor: JsonObject, fields: JsonObject = {}): JsonObject {
  return { Type: "Map", ItemProcessor: processor, ...("Next" in fields ? {} : { End: true }), ...fields };
}
function distributed(processor: JsonObject): JsonObject {
  return { ...processor, ProcessorConfig: { Mode: "DISTRIBUTED", ExecutionType: "STANDARD" } };
}
const pass = (output: JsonObject | string): JsonObject => ({ Type: "Pass", Output: output, End: true });

/** Gives its payload after as many seconds as the payload says; notes how many ran at one time. */
function counted() {
  const seen = { running: 0, most: 0 };
  const work = async (payload: unknown, { pass: wait }: FakeContext) => {
    seen.running += 1;
    seen.most = Math.max(seen.most, seen.running);
    await wait(Number(payload) * 1000);
    seen.running -= 1;
    return seen.most;
  };
  return work;
}

const parallel: MachineCase[] = [
  {
    name: "Parallel gives its branches' outputs in order, whichever ends first",
    states: {
      A: {
        Type: "Parallel",
        Branches: [branch(["P", call("slow")]), branch(["Q", call("fast")])],
        End: true,
      },
    },
    functions: {
      slow: (_payload, { pass: wait }) => wait(5000).then(() => "slow"),
      fast: () => "fast",
    },
    input: { a: 1 },
    output: ["slow", "fast"],
    calls: [
      ["slow", { a: 1 }],
      ["fast", { a: 1 }],
    ],
    elapsedMs: 5000,
  },
  {
    name: "Parallel gives its branches the Arguments; Output and Assign see the results",
    states: {
      A: {
        Type: "Parallel",
        Arguments: { n: "{% $states.input + 1 %}" },
        Branches: [branch(["P", pass("{% $states.input.n %}")]), branch(["Q", pass("{% $states.input.n * 10 %}")])],
        Assign: { sum: "{% $sum($states.result) %}" },
        Output: "{% $states.result[1] %}",
        Next: "B",
      },
      B: { Type: "Succeed", Output: "{% [$states.input, $sum] %}" },
    },
    input: 1,
    output: [20, 22],
  },
  {
    name: "a branch reads outer variables and keeps its own to itself",
    states: {
      Start: { Type: "Pass", Assign: { x: 1 }, Next: "A" },
      A: {
        Type: "Parallel",
        Branches: [
          branch(
            ["P", { Type: "Pass", Assign: { own: "{% $x + 1 %}" }, Next: "P2" }],
            ["P2", pass("{% [$x, $own] %}")],
          ),
          branch(["Q", { Type: "Pass", Assign: { own: 9 }, Next: "Q2" }], ["Q2", pass("{% [$x, $own] %}")]),
        ],
        End: true,
      },
    },
    output: [
      [1, 2],
      [1, 9],
    ],
  },
  {
    name: "a failing branch cancels the others and fails the state with its error",
    states: {
      A: {
        Type: "Parallel",
        Branches: [branch(["P", call("slow")]), branch(["Q", call("bad")])],
        Catch: [{ ErrorEquals: ["E"], Next: "B" }],
        End: true,
      },
      B: { Type: "Succeed", Output: "{% $states.input.Error %}" },
    },
    functions: {
      slow: (_payload, { pass: wait }) => wait(3_600_000),
      bad: async (_payload, { pass: wait }) => {
        await wait(1000);
        throw named("E");
      },
    },
    output: "E",
    elapsedMs: 1000,
  },
  {
    name: "a failing branch waits for the others to stop",
    states: { A: { Type: "Parallel", Branches: [branch(["P", call("deaf")]), branch(["Q", call("bad")])], End: true } },
    functions: {
      deaf: (_payload, { ignore }) => ignore(3000),
      bad: () => {
        throw named("E");
      },
    },
    error: "E",
    elapsedMs: 3000,
  },
  {
    name: "a catcher inside a cancelled branch does not run",
    states: {
      A: {
        Type: "Parallel",
        Branches: [
          branch(
            ["P", call("slow", { Catch: [{ ErrorEquals: ["States.ALL"], Next: "P2" }], Next: "P2" })],
            ["P2", call("never")],
          ),
          branch(["Q", { Type: "Wait", Seconds: 1, Next: "Q2" }], ["Q2", { Type: "Fail", Error: "E" }]),
        ],
        End: true,
      },
    },
    functions: { slow: (_payload, { pass: wait }) => wait(5000), never: () => 1 },
    error: "E",
    calls: [["slow", {}]],
  },
  {
    name: "a retry of Parallel runs all branches again",
    states: {
      A: {
        Type: "Parallel",
        Branches: [branch(["P", call("f")]), branch(["Q", call("g")])],
        Retry: [{ ErrorEquals: ["E"] }],
        End: true,
      },
    },
    functions: {
      f: () => 1,
      g: (_payload, { before }) => {
        if (before === 0) throw named("E");
        return 2;
      },
    },
    output: [1, 2],
    calls: [
      ["f", {}],
      ["g", {}],
      ["f", {}],
      ["g", {}],
    ],
    delays: [1],
  },
];

const maps: MachineCase[] = [
  {
    name: "Map runs its input's items in order of results",
    states: { A: each(branch(["P", call("f")])) },
    functions: { f: (payload, { pass: wait }) => wait(Number(payload) * 1000).then(() => Number(payload) * 2) },
    input: [3, 1, 0],
    output: [6, 2, 0],
    elapsedMs: 3000,
  },
  {
    name: "Map over nothing gives nothing",
    states: { A: each(branch(["P", call("f")])) },
    input: [],
    output: [],
    calls: [],
  },
  {
    name: "Items and ItemSelector choose what an iteration is given",
    states: {
      A: each(branch(["P", pass("{% $states.input %}")]), {
        Items: "{% $states.input.list %}",
        ItemSelector: {
          i: "{% $states.context.Map.Item.Index %}",
          v: "{% $states.context.Map.Item.Value %}",
          all: "{% $count($states.input.list) %}",
        },
      }),
    },
    input: { list: ["a", "b"] },
    output: [
      { i: 0, v: "a", all: 2 },
      { i: 1, v: "b", all: 2 },
    ],
  },
  {
    name: "Items may be a list, and iterations see their item in the context",
    states: {
      A: each(branch(["P", pass("{% $states.context.Map.Item.Value & $string($states.context.Map.Item.Index) %}")]), {
        Items: ["x", "{% 'y' %}"],
      }),
    },
    output: ["x0", "y1"],
  },
  {
    name: "Items that are no array fail",
    states: { A: each(branch(["P", pass("x")]), { Items: "{% {'a': 1} %}" }) },
    error: "States.QueryEvaluationError",
  },
  {
    name: "MaxConcurrency bounds what runs at one time",
    states: { A: each(branch(["P", call("f")]), { MaxConcurrency: 2, Output: "{% $max($states.result) %}" }) },
    functions: { f: counted() },
    input: [1, 1, 1, 1, 1],
    output: 2,
    elapsedMs: 3000,
  },
  {
    name: "MaxConcurrency may be an expression, and 0 means the most: 40",
    states: { A: each(branch(["P", call("f")]), { MaxConcurrency: "{% 0 %}", Output: "{% $max($states.result) %}" }) },
    functions: { f: counted() },
    input: Array.from({ length: 50 }, () => 1),
    output: 40,
    elapsedMs: 2000,
  },
  {
    name: "a failed iteration cancels the others and starts no more",
    states: { A: each(branch(["P", call("f")]), { MaxConcurrency: 2 }) },
    functions: {
      f: async (payload, { pass: wait }) => {
        if (payload === 1) throw named("E");
        await wait(1000);
        return payload;
      },
    },
    input: [0, 1, 2, 3],
    error: "E",
    calls: [
      ["f", 0],
      ["f", 1],
    ],
    elapsedMs: 0,
  },
  {
    name: "Map inside Map inside Parallel",
    states: {
      A: {
        Type: "Parallel",
        Branches: [
          branch([
            "Outer",
            each(
              branch([
                "Inner",
                each(branch(["P", pass("{% $states.input * 10 + $states.context.Map.Item.Index %}")]), {
                  Output: "{% $sum($states.result) %}",
                }),
              ]),
            ),
          ]),
          branch(["Q", pass("q")]),
        ],
        End: true,
      },
    },
    input: [[1, 2], [], [3]],
    output: [[31, 0, 30], "q"],
  },
  {
    name: "iterations have variables of their own",
    states: {
      Start: { Type: "Pass", Assign: { k: 100 }, Next: "A" },
      A: each(
        branch(
          ["P", { Type: "Pass", Assign: { mine: "{% $states.input %}" }, Next: "W" }],
          ["W", { Type: "Wait", Seconds: "{% 3 - $mine %}", Next: "R" }],
          ["R", pass("{% $mine + $k %}")],
        ),
      ),
    },
    startAt: "Start",
    input: [1, 2],
    output: [101, 102],
  },
  {
    name: "a distributed map is a map whose iterations share no variables",
    states: {
      A: each(distributed(branch(["P", pass("{% $states.input + 1 %}")])), { Label: "Child" }),
    },
    input: [1, 2],
    output: [2, 3],
  },
  {
    name: "a distributed map fails as one that tolerates no failure",
    states: { A: each(distributed(branch(["P", { Type: "Fail", Error: "E", Cause: "c" }]))) },
    input: [1],
    error: "States.ExceedToleratedFailureThreshold",
    cause: /E: c/,
  },
  {
    name: "cancellation reaches the tasks of a map",
    states: { A: each(branch(["P", call("f")])) },
    functions: { f: (_payload, { pass: wait }) => wait(10_000) },
    input: [1, 2],
    abortAfterMs: 500,
    status: "ABORTED",
    elapsedMs: 500,
  },
];

export const fanOutCases = [...parallel, ...maps];
