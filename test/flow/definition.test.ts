import assert from "node:assert/strict";
import { test } from "node:test";
import * as z from "zod";
import { ERROR_CODES } from "../../core/error.ts";
import { BATCH_SUBMIT_JOB, LAMBDA_INVOKE, renderDefinition, transientErrors } from "../../flow/definition.ts";
import { loadMachine } from "../../local/asl/load.ts";
import { assertRefused } from "../refusal.ts";
import { NAMES } from "./names.ts";

const retrySchema = z.looseObject({ ErrorEquals: z.array(z.string()) });
const taskSchema = z.looseObject({
  Type: z.literal("Task"),
  Resource: z.string(),
  TimeoutSeconds: z.int(),
  Retry: z.array(retrySchema).optional(),
  Catch: z.array(z.looseObject({ ErrorEquals: z.array(z.string()), Next: z.string() })),
});
const machineSchema = z.looseObject({ States: z.record(z.string(), z.looseObject({ Type: z.string() })) });

function tasks(): [string, z.infer<typeof taskSchema>][] {
  const { States } = machineSchema.parse(renderDefinition(NAMES));
  return Object.entries(States)
    .filter(([, state]) => state.Type === "Task")
    .map(([name, state]) => [name, taskSchema.parse(state)]);
}

test("the rendered definition loads in the local interpreter", () => {
  const machine = loadMachine(renderDefinition(NAMES), { resources: new Set([LAMBDA_INVOKE, BATCH_SUBMIT_JOB]) });
  assert.equal(machine.startAt, "Plan");
  assert.ok(machine.states.size > 10);
});

test("rendering fills in every name and the result is stable", () => {
  const text = JSON.stringify(renderDefinition(NAMES));
  assert.doesNotMatch(text, /\$\{[A-Za-z]/);
  for (const name of Object.values(NAMES)) assert.ok(text.includes(`"${name}"`), name);
  assert.equal(JSON.stringify(renderDefinition(NAMES)), text);
});

test("a placeholder without a name is refused", () => {
  const { CpuQueue: _, ...rest } = NAMES;
  const expected = { code: "FlowDefinitionInvalid", found: `\${CpuQueue}`, field: "States.Plan.Assign.queues.cpu" };
  assertRefused(() => Reflect.apply(renderDefinition, undefined, [rest]), expected);
});

test("functions retry exactly what the error table and Lambda call transient", () => {
  const codes = Object.entries(ERROR_CODES).flatMap(([code, kind]) => (kind.retryable ? [code] : []));
  assert.ok(codes.length > 0);
  const expected = transientErrors();
  for (const code of codes) assert.ok(expected.includes(code), code);
  assert.ok(expected.every((name) => codes.includes(name) || name.startsWith("Lambda.")));
  const lambdas = tasks().filter(([, task]) => task.Resource === LAMBDA_INVOKE);
  assert.equal(lambdas.length, 6);
  for (const [name, task] of lambdas)
    assert.deepEqual(
      task.Retry?.map((entry) => entry.ErrorEquals),
      [expected],
      name,
    );
});

test("of jobs only the submission is tried again: what fails in one the job definition retries", () => {
  const jobs = tasks().filter(([, task]) => task.Resource === BATCH_SUBMIT_JOB);
  assert.deepEqual(
    jobs.map(([name]) => name),
    ["RunStageJob", "RunStageArray"],
  );
  for (const [name, { Retry }] of jobs) {
    const errors = Retry?.flatMap(({ ErrorEquals }) => ErrorEquals) ?? [];
    assert.ok(errors.length > 0 && errors.every((error) => error.startsWith("Batch.")), name);
  }
});

test("every task has a timeout and catches every error", () => {
  const targets = new Map(tasks().map(([name, task]) => [name, task.Catch.at(-1)?.Next]));
  for (const [name, task] of tasks()) {
    assert.deepEqual(task.Catch.at(-1)?.ErrorEquals, ["States.ALL"], name);
    assert.ok(task.TimeoutSeconds > 0, name);
  }
  assert.deepEqual(Object.fromEntries(targets), {
    Plan: "RecordFailure",
    RunStageJob: "RecordFailure",
    RunStageArray: "RecordFailure",
    Check: "RecordFailure",
    Publish: "RecordFailure",
    Notify: "RecordFailure",
    RecordFailure: "NotifyFailure",
    NotifyFailure: "Failed",
  });
});

test("the definition is well within the service's size", () => {
  assert.ok(Buffer.byteLength(JSON.stringify(renderDefinition(NAMES))) < 100_000);
});
