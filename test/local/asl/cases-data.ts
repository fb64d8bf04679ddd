// Data: Pass, Choice, Wait, Succeed and Fail; Output, Assign, scopes; expressions and their functions.
import type { Json, JsonObject } from "../../../core/json.ts";
import type { MachineCase } from "./machine-case.ts";

/** A machine of one Pass state that gives `output`. */
function gives(name: string, output: Json, expected: Json, input: Json = {}): MachineCase {
  return { name, states: { Only: { Type: "Pass", Output: output, End: true } }, input, output: expected };
}

function fails(name: string, output: Json, cause?: RegExp): MachineCase {
  return {
    name,
    states: { Only: { Type: "Pass", Output: output, End: true } },
    error: "States.QueryEvaluationError",
    ...(cause === undefined ? {} : { cause }),
  };
}

const expressions: MachineCase[] = [
  gives(
    "a template is its literals and the values of its expressions",
    [1, "a", { b: "{% $states.input.x + 1 %}" }],
    [1, "a", { b: 3 }],
    { x: 2 },
  ),
  gives("false, zero, null and empty values are values", "{% $states.input.list %}", [false, 0, null, "", [], {}], {
    list: [false, 0, null, "", [], {}],
  }),
  gives("an array of one item stays an array", "{% $states.input.list %}", [{ a: 1 }], { list: [{ a: 1 }] }),
  gives("text with delimiters in the middle is text", "a {% 1 %} b", "a {% 1 %} b"),
  gives("an expression may span lines", "{% (\n $x := 2;\n $x * 3\n) %}", 6),
  gives("$uuid gives a version 4 UUID", "{% $uuid() %}", "00000000-0000-4000-8000-000000000000"),
  gives("$random is in [0, 1)", "{% $random() %}", 0.25),
  gives("$random of one seed is one number", "{% $random(7) = $random(7) and $random(7) != $random(8) %}", true),
  gives("$hash knows five algorithms", "{% $map(['MD5','SHA-1','SHA-256'], function($a) { $hash('abc', $a) }) %}", [
    "900150983cd24fb0d6963f7d28e17f72",
    "a9993e364706816aba3e25717850c26c9cd0d89d",
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
  ]),
  gives("$parse reads JSON", '{% $parse("{\\"a\\":[1,null]}") %}', { a: [1, null] }),
  gives("$range includes its end", "{% [$range(0, 10, 5), $range(3, 1, -1)] %}", [0, 5, 10, 3, 2, 1]),
  gives("$range that cannot reach its end is empty", "{% $count($range(1, 0, 1)) %}", 0),
  gives("$partition leaves a shorter last group", "{% $partition([1,2,3,4,5], 2) %}", [[1, 2], [3, 4], [5]]),
  fails("an expression that gives nothing fails", { a: "{% $states.input.missing %}" }, /Only\.Output\.a/),
  fails("a function is not a value", "{% $sum %}", /function/),
  fails("a type error fails", "{% 1 + 'a' %}", /T2002/),
  fails("$parse of what is not JSON fails", "{% $parse('{') %}"),
  fails("$hash of an unknown algorithm fails", "{% $hash('a', 'CRC32') %}"),
  fails("$partition into nothing fails", "{% $partition([1], 0) %}"),
  fails("$range by steps of nothing fails", "{% $range(0, 1, 0) %}"),
  fails("an array beyond the bound fails", "{% [1..100001] %}", /D2015/),
  fails("a recursion without end fails", "{% ($f := function($x) { 1 + $f($x) }; $f(1)) %}", /D1011/),
  fails("$error fails with its text", "{% $error('no good') %}", /no good/),
];

const context: MachineCase[] = [
  gives(
    "the context names the execution",
    "{% $states.context.Execution.Name & $states.context.Execution.Input.a %}",
    "case1",
    {
      a: 1,
    },
  ),
  gives("the context names the state and its time", "{% $states.context.State %}", {
    Name: "Only",
    EnteredTime: "2026-01-01T00:00:00.000Z",
    RetryCount: 0,
  }),
  fails("there is no result before a task", "{% $states.result %}"),
];

const flow: MachineCase[] = [
  { name: "Pass without Output gives its input", states: { A: { Type: "Pass", End: true } }, input: [1], output: [1] },
  {
    name: "Succeed ends with its output",
    states: { A: { Type: "Pass", Output: 1, Next: "B" }, B: { Type: "Succeed", Output: "{% $states.input + 1 %}" } },
    output: 2,
  },
  {
    name: "Fail ends with the error and cause that it evaluates",
    states: { A: { Type: "Fail", Error: "{% 'Bad' & $states.input.x %}", Cause: "why" } },
    input: { x: 1 },
    error: "Bad1",
    cause: /^why$/,
  },
  {
    name: "Fail whose error is not text fails differently",
    states: { A: { Type: "Fail", Error: "{% 5 %}" } },
    error: "States.QueryEvaluationError",
  },
];

const rules: JsonObject = {
  Pick: {
    Type: "Choice",
    Choices: [
      { Condition: "{% $states.input.x = 0 %}", Next: "Zero", Output: "from the rule" },
      { Condition: "{% $exists($states.input.y) and $states.input.y %}", Next: "Flag", Assign: { seen: "rule" } },
    ],
    Default: "Other",
    Assign: { seen: "default" },
    Output: "from the state",
  },
  Zero: { Type: "Succeed" },
  Flag: { Type: "Succeed", Output: "{% [$seen, $states.input] %}" },
  Other: { Type: "Succeed", Output: "{% [$seen, $states.input] %}" },
};

const choices: MachineCase[] = [
  {
    name: "the first true rule wins, with its own output",
    states: rules,
    input: { x: 0, y: true },
    output: "from the rule",
  },
  {
    name: "a rule without Output gives the input, not the state's output",
    states: rules,
    input: { x: 1, y: true },
    output: ["rule", { x: 1, y: true }],
  },
  {
    name: "false conditions lead to Default, with the state's output and variables",
    states: rules,
    input: { x: 1, y: false },
    output: ["default", "from the state"],
  },
  {
    name: "no match without Default fails",
    states: { A: { Type: "Choice", Choices: [{ Condition: "{% false %}", Next: "B" }] }, B: { Type: "Succeed" } },
    error: "States.NoChoiceMatched",
  },
  {
    name: "a condition that is no boolean fails instead of counting as false",
    states: {
      A: { Type: "Choice", Choices: [{ Condition: "{% 0 %}", Next: "B" }], Default: "B" },
      B: { Type: "Succeed" },
    },
    error: "States.QueryEvaluationError",
  },
];

const variables: MachineCase[] = [
  {
    name: "variables live on in later states",
    states: {
      A: { Type: "Pass", Assign: { x: "{% $states.input.a %}", y: false }, Output: null, Next: "B" },
      B: { Type: "Pass", Output: "{% [$x, $y] %}", End: true },
    },
    input: { a: 5 },
    output: [5, false],
  },
  {
    name: "Assign and Output both see the variables before the state",
    states: {
      A: { Type: "Pass", Assign: { x: 1, y: 10 }, Next: "B" },
      B: { Type: "Pass", Assign: { x: "{% $y %}", y: "{% $x %}" }, Output: "{% $x %}", Next: "C" },
      C: { Type: "Pass", Output: "{% [$states.input, $x, $y] %}", End: true },
    },
    output: [1, 10, 1],
  },
  {
    name: "a loop counts with a variable",
    states: {
      Start: { Type: "Pass", Assign: { i: 0 }, Next: "Left" },
      Left: { Type: "Choice", Choices: [{ Condition: "{% $i < 3 %}", Next: "Step" }], Default: "Done" },
      Step: { Type: "Pass", Assign: { i: "{% $i + 1 %}" }, Next: "Left" },
      Done: { Type: "Succeed", Output: "{% $i %}" },
    },
    output: 3,
  },
  {
    name: "a variable read before any state assigned it fails",
    states: {
      A: { Type: "Choice", Choices: [{ Condition: "{% $x = 1 %}", Next: "B" }], Default: "C" },
      B: { Type: "Pass", Assign: { x: 1 }, Next: "C" },
      C: { Type: "Pass", Output: "{% $x %}", End: true },
    },
    error: "States.QueryEvaluationError",
  },
];

const waits: MachineCase[] = [
  {
    name: "Wait passes its seconds",
    states: { A: { Type: "Wait", Seconds: 90, End: true } },
    output: {},
    elapsedMs: 90_000,
  },
  {
    name: "Wait evaluates its seconds",
    states: { A: { Type: "Wait", Seconds: "{% $states.input.s %}", Output: "up", End: true } },
    input: { s: 0 },
    output: "up",
    elapsedMs: 0,
  },
  {
    name: "Wait until a time",
    states: { A: { Type: "Wait", Timestamp: "2026-01-01T01:00:00+00:00", End: true } },
    output: {},
    elapsedMs: 3_600_000,
  },
  {
    name: "Wait until a time that has passed goes on at once",
    states: { A: { Type: "Wait", Timestamp: "{% '2025-01-01T00:00:00Z' %}", End: true } },
    output: {},
    elapsedMs: 0,
  },
  {
    name: "Wait for a fraction fails",
    states: { A: { Type: "Wait", Seconds: "{% 0.5 %}", End: true } },
    error: "States.QueryEvaluationError",
  },
  {
    name: "Wait until what is no time fails",
    states: { A: { Type: "Wait", Timestamp: "tomorrow", End: true } },
    error: "States.QueryEvaluationError",
  },
  {
    name: "Wait of years passes",
    states: { A: { Type: "Wait", Seconds: 99_999_999, End: true } },
    output: {},
    elapsedMs: 99_999_999_000,
  },
];

export const dataCases = [...expressions, ...context, ...flow, ...choices, ...variables, ...waits];
