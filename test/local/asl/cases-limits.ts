// Sizes: the service's 256 KiB of any payload, counted in bytes of UTF-8 JSON, and what such failures may be caught by.
import type { JsonObject } from "../../../core/json.ts";
import { call, type MachineCase, named } from "./machine-case.ts";

const LIMIT = 262_144;
/** Text whose JSON is exactly so many bytes, quotes included. */
const text = (bytes: number): string => "x".repeat(bytes - 2);
const echo = { A: { Type: "Pass", End: true } };
const caughtBy = (name: string): JsonObject => ({
  A: call("f", { Catch: [{ ErrorEquals: [name], Next: "B", Output: "caught" }] }),
  B: { Type: "Succeed" },
});
const huge = () => text(LIMIT + 1);

export const limitCases: MachineCase[] = [
  { name: "an input of exactly the limit passes", states: echo, input: text(LIMIT), output: text(LIMIT) },
  { name: "an input beyond the limit fails", states: echo, input: text(LIMIT + 1), error: "States.DataLimitExceeded" },
  {
    name: "the limit counts bytes, not characters",
    states: echo,
    input: "é".repeat(LIMIT / 2),
    error: "States.DataLimitExceeded",
  },
  {
    name: "a result beyond the limit fails",
    states: { A: call("f", { Output: 1 }) },
    functions: { f: huge },
    error: "States.DataLimitExceeded",
  },
  {
    name: "arguments beyond the limit fail before the task runs",
    states: {
      A: call("f", { Arguments: { FunctionName: "f", Payload: ["{% $states.input %}", "{% $states.input %}"] } }),
    },
    input: text(LIMIT / 2),
    functions: { f: () => 1 },
    error: "States.DataLimitExceeded",
    calls: [],
  },
  {
    name: "an output beyond the limit fails",
    states: { A: { Type: "Pass", Output: ["{% $states.input %}", "{% $states.input %}"], End: true } },
    input: text(LIMIT / 2),
    error: "States.DataLimitExceeded",
  },
  {
    name: "what one Assign holds beyond the limit fails",
    states: {
      A: { Type: "Pass", Assign: { a: "{% $states.input %}", b: "{% $states.input %}" }, Output: 1, Next: "B" },
      B: { Type: "Succeed" },
    },
    input: text(LIMIT / 2),
    error: "States.DataLimitExceeded",
  },
  {
    name: "the results of a map together are limited",
    states: {
      A: {
        Type: "Map",
        Items: [1, 2, 3],
        ItemProcessor: { StartAt: "P", States: { P: call("f") } },
        Output: 1,
        End: true,
      },
    },
    functions: { f: () => text(LIMIT / 2) },
    error: "States.DataLimitExceeded",
  },
  {
    name: "States.ALL does not catch States.DataLimitExceeded",
    states: caughtBy("States.ALL"),
    functions: { f: huge },
    error: "States.DataLimitExceeded",
  },
  {
    name: "States.TaskFailed does not catch States.DataLimitExceeded",
    states: caughtBy("States.TaskFailed"),
    functions: { f: huge },
    error: "States.DataLimitExceeded",
  },
  {
    name: "its own name catches States.DataLimitExceeded",
    states: caughtBy("States.DataLimitExceeded"),
    functions: { f: huge },
    output: "caught",
  },
  {
    name: "States.ALL does not catch States.Runtime: a task that gives no JSON value",
    states: caughtBy("States.ALL"),
    functions: { f: () => Number.NaN },
    error: "States.Runtime",
  },
  {
    name: "States.ALL catches any other error",
    states: caughtBy("States.ALL"),
    functions: {
      f: () => {
        throw named("Anything");
      },
    },
    output: "caught",
  },
  {
    name: "a cause is cut at the service's length",
    states: {
      A: call("f", { Catch: [{ ErrorEquals: ["E"], Next: "B" }] }),
      B: { Type: "Succeed", Output: "{% $length($states.input.Cause) %}" },
    },
    functions: {
      f: () => {
        throw named("E", "y".repeat(100_000));
      },
    },
    output: 32_768,
  },
];
