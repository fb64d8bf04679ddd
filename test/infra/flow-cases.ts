// The state machine: what is deployed is what runs locally, and it may call everything that it calls.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as z from "zod";
import { fleetSchema } from "../../core/plan/machine.ts";
import { BATCH_SUBMIT_JOB, LAMBDA_INVOKE, renderDefinition, type Substitutions } from "../../flow/definition.ts";
import { environmentSchema } from "../../infra/config.ts";
import { NAMES } from "../flow/names.ts";
import { full, role, standard } from "./deployments.ts";
import { allows, rolesOf } from "./policies.ts";
import { at, jobQueueArns, type Value } from "./templates.ts";

const machine = standard.one("AWS::StepFunctions::StateMachine");
const substitutions = z.record(z.string(), z.string()).parse(machine.properties.DefinitionSubstitutions);
const definition = z.string().parse(machine.properties.DefinitionString);

test("what is deployed is what runs locally: one definition, its names filled in", () => {
  const filled = (names: Readonly<Record<string, string>>): unknown =>
    JSON.parse(definition.replace(/\$\{(\w+)\}/g, (_, name: string) => names[name] ?? `no ${name}`));
  assert.deepEqual(filled(NAMES), renderDefinition(NAMES));
  assert.deepEqual(Object.keys(substitutions).sort(), Object.keys(NAMES satisfies Substitutions).sort());
  assert.ok(definition.length < 1_000_000);
});

const taskSchema = z.looseObject({ Resource: z.string(), Arguments: z.looseObject({}), TimeoutSeconds: z.int() });
const statesSchema = z.looseObject({ States: z.record(z.string(), z.looseObject({ Type: z.string() })) });

function tasks() {
  const rendered: unknown = JSON.parse(
    definition.replace(/\$\{(\w+)\}/g, (_, name: string) => substitutions[name] ?? ""),
  );
  return Object.entries(statesSchema.parse(rendered).States)
    .filter(([, state]) => state.Type === "Task")
    .map(([name, state]) => ({ name, ...taskSchema.parse(state) }));
}

test("every function, queue and job definition of the state machine is in the templates", () => {
  const functions = standard.ofType("AWS::Lambda::Function").map(({ stack, id }) => `${stack}/${id}.Arn`);
  const queues = jobQueueArns(standard);
  const jobs = standard
    .ofType("AWS::Batch::JobDefinition")
    .map(({ properties }) => jobArn(properties.JobDefinitionName));
  for (const [name, value] of Object.entries(substitutions)) {
    if (name.startsWith("Gpu")) continue;
    const known = name.endsWith("Function") ? functions : name.endsWith("Queue") ? queues : jobs;
    assert.ok(known.includes(value), `${name}: ${value}`);
  }
  assert.equal(new Set(Object.values(substitutions)).size, Object.keys(substitutions).length);
});

test("with GPUs both queues are there, the state machine may submit to both, and the planner knows their sizes", () => {
  const names = z
    .record(z.string(), z.string())
    .parse(full.one("AWS::StepFunctions::StateMachine").properties.DefinitionSubstitutions);
  const queues = jobQueueArns(full);
  assert.deepEqual([names.CpuQueue, names.GpuQueue].toSorted(), queues.toSorted());
  const jobs = full.ofType("AWS::Batch::JobDefinition").map(({ properties }) => jobArn(properties.JobDefinitionName));
  assert.ok(jobs.includes(names.GpuWorkerJobDefinition ?? ""));
  const runs = rolesOf(full).find(({ id }) => id.startsWith("StateMachineRole"))?.statements ?? [];
  for (const resource of [names.CpuQueue, names.GpuQueue, names.GpuWorkerJobDefinition, names.WorkerJobDefinition]) {
    assert.ok(allows(runs, "batch:SubmitJob", resource ?? ""), resource);
  }
  const plan = full.one("AWS::Lambda::Function", "Plan").properties;
  const fleet: unknown = JSON.parse(String(at(plan, "Environment", "Variables", "MERGEYARD_FLEET")));
  assert.deepEqual(fleetSchema.parse(fleet).gpu, { vcpus: 4, memoryMiB: 14_336 });
});

test("without GPUs nothing is granted for them, and their names are none that Batch could take for a queue", () => {
  assert.deepEqual(
    [substitutions.GpuQueue, substitutions.GpuWorkerJobDefinition],
    ["no-gpu-queue", "no-gpu-job-definition"],
  );
  assert.ok(!allows(role("StateMachine"), "batch:SubmitJob", "no-gpu-queue"));
});

const jobArn = (name: Value | undefined) => `arn:aws:batch:eu-west-1:111122223333:job-definition/${String(name)}`;

test("the state machine may call what its states call, follow it, and end it", () => {
  const may = (action: string, resource: string) => allows(role("StateMachine"), action, resource);
  const called = new Set<string>();
  for (const { Resource, Arguments } of tasks()) {
    if (Resource === LAMBDA_INVOKE) {
      assert.ok(may("lambda:InvokeFunction", String(Arguments.FunctionName)));
      called.add(String(Arguments.FunctionName));
    } else {
      assert.equal(Resource, BATCH_SUBMIT_JOB);
    }
  }
  assert.ok(may("batch:SubmitJob", substitutions.CpuQueue ?? ""));
  for (const name of ["ShardJobDefinition", "WorkerJobDefinition"]) {
    for (const revision of ["", ":7"]) assert.ok(may("batch:SubmitJob", `${substitutions[name]}${revision}`), name);
  }
  assert.ok(may("batch:DescribeJobs", "*"));
  assert.ok(may("batch:TerminateJob", "arn:aws:batch:eu-west-1:111122223333:job/some-job"));
  const rule = "arn:aws:events:eu-west-1:111122223333:rule/StepFunctionsGetEventsForBatchJobsRule";
  for (const action of ["events:PutTargets", "events:PutRule", "events:DescribeRule"]) assert.ok(may(action, rule));
  const functions = standard.ofType("AWS::Lambda::Function").map(({ stack, id }) => `${stack}/${id}.Arn`);
  for (const arn of functions) assert.equal(may("lambda:InvokeFunction", arn), called.has(arn), arn);
  assert.ok(!may("batch:SubmitJob", jobArn("another")));
  assert.ok(!may("batch:SubmitJob", `${substitutions.WorkerJobDefinition}-of-somebody`));
});

test("a function is told to stop before the state that called it gives up", () => {
  const timeouts = new Map(
    standard
      .ofType("AWS::Lambda::Function")
      .map(({ stack, id, properties }) => [`${stack}/${id}.Arn`, properties.Timeout]),
  );
  for (const { name, Resource, Arguments, TimeoutSeconds } of tasks()) {
    if (Resource !== LAMBDA_INVOKE) continue;
    const timeout = Number(timeouts.get(String(Arguments.FunctionName)));
    assert.ok(timeout > 60 && timeout < TimeoutSeconds, `${name}: function ${timeout} s, state ${TimeoutSeconds} s`);
  }
});

test("the longest execution ends before its run's files expire", () => {
  const seconds = z.looseObject({ TimeoutSeconds: z.int() }).parse(JSON.parse(definition)).TimeoutSeconds;
  assert.throws(() => environmentSchema.parse({ name: "a", storage: { runDays: seconds / 86_400 } }));
  assert.doesNotThrow(() => environmentSchema.parse({ name: "a", storage: { runDays: seconds / 86_400 + 1 } }));
});
