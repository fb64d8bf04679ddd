// The pipeline's state machine run with fakes behind its tasks: which calls it makes, with what, in which order.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isJsonObject, type Json, type JsonObject } from "../../core/json.ts";
import { BATCH_SUBMIT_JOB, LAMBDA_INVOKE, renderDefinition } from "../../flow/definition.ts";
import { type ExecutionResult, execute } from "../../local/asl/execute.ts";
import { stateFailure } from "../../local/asl/failure.ts";
import { loadMachine } from "../../local/asl/load.ts";
import { createFakeClock } from "../local/asl/fake-clock.ts";
import { NAMES } from "./names.ts";

const INPUT = { yard: "memory://yard", pipeline: { store: "memory://yard", key: "pipelines/p.yaml" } };
const RUN = "sha256:0123456789abcdef";
const REF = { yard: INPUT.yard, run: RUN };
const PUBLISHED = {
  ...REF,
  outcome: "published",
  model: "m",
  channel: "c",
  version: "v",
  current: null,
  files: 1,
  bytes: 2,
};

const SIZE = { queue: "cpu", vcpus: 2, memoryMiB: 3584, memoryBytes: 2_254_438_400 };

function planned(jobs: readonly number[]): JsonObject {
  const stages = jobs.map((count, index) => ({
    index: index * 2,
    name: `s${index}`,
    kind: index < jobs.length - 2 ? "shard" : "apply",
    units: 9,
    jobs: count,
    ...SIZE,
  }));
  return { ...REF, outcome: "planned", plannedMs: 5, stages, model: "m", channel: "c", version: null, current: null };
}

type Call = readonly [string, Json];
type Fakes = { readonly plan: Json; readonly fail?: Readonly<Record<string, readonly string[]>> };

/** Runs the machine; `fail` names the errors that the calls of a task meet, one after the other. */
async function run(fakes: Fakes): Promise<{ result: ExecutionResult; calls: readonly Call[] }> {
  const calls: Call[] = [];
  const answers: Readonly<Record<string, Json>> = {
    plan: fakes.plan,
    check: { ...REF, units: 3 },
    publish: PUBLISHED,
    notify: { units: 3 },
    "record-failure": { key: null },
    batch: { Status: "SUCCEEDED" },
  };
  const answer = (name: string, payload: Json): Json => {
    const before = calls.filter(([called]) => called === name).length;
    calls.push([name, payload]);
    const error = fakes.fail?.[name]?.[before];
    if (error !== undefined) throw stateFailure(error, `${name} failed`);
    return answers[name] ?? null;
  };
  const result = await execute({
    machine: loadMachine(renderDefinition(NAMES), { resources: new Set([LAMBDA_INVOKE, BATCH_SUBMIT_JOB]) }),
    input: INPUT,
    name: "test",
    clock: createFakeClock(),
    tasks: new Map([
      [
        LAMBDA_INVOKE,
        async (input) => {
          assert.ok(isJsonObject(input) && typeof input.FunctionName === "string");
          const name = input.FunctionName.split(":").at(-1) ?? "";
          return { StatusCode: 200, Payload: answer(name, input.Payload ?? null) };
        },
      ],
      [BATCH_SUBMIT_JOB, async (input) => answer("batch", input)],
    ]),
  });
  return { result, calls };
}

function job(stage: number, jobs: number, definition: string = NAMES.WorkerJobDefinition): JsonObject {
  return {
    JobName: `mergeyard-s${stage / 2}-sha256-0123456789abcdef`,
    JobQueue: NAMES.CpuQueue,
    JobDefinition: definition,
    ...(jobs === 1 ? {} : { ArrayProperties: { Size: jobs } }),
    ContainerOverrides: {
      Environment: [
        { Name: "MERGEYARD_YARD", Value: INPUT.yard },
        { Name: "MERGEYARD_RUN", Value: RUN },
        { Name: "MERGEYARD_STAGE", Value: String(stage) },
        { Name: "MERGEYARD_JOBS", Value: String(jobs) },
        { Name: "MERGEYARD_THREADS", Value: "2" },
        { Name: "MERGEYARD_MEMORY_BYTES", Value: "2254438400" },
      ],
      ResourceRequirements: [
        { Type: "VCPU", Value: "2" },
        { Type: "MEMORY", Value: "3584" },
      ],
    },
    Timeout: { AttemptDurationSeconds: 172_800 },
  };
}
const SUCCESS: readonly Call[] = [
  ["check", REF],
  ["publish", { ...REF, plannedMs: 5 }],
  ["notify", { ...REF, outcome: "published" }],
];

test("a planned run runs its stages in order, a plain job for one job and an array for more", async () => {
  const { result, calls } = await run({ plan: planned([1, 2, 10_000, 1]) });
  assert.deepEqual(calls, [
    ["plan", INPUT],
    ["batch", job(0, 1, NAMES.ShardJobDefinition)],
    ["batch", job(2, 2, NAMES.ShardJobDefinition)],
    ["batch", job(4, 10_000)],
    ["batch", job(6, 1)],
    ...SUCCESS,
  ]);
  assert.deepEqual(result, { status: "SUCCEEDED", output: { result: PUBLISHED, summary: { units: 3 } } });
});

test("a stage of the GPU queue goes there with its size, whether it is one job or many", async () => {
  const base = planned([1, 3]);
  assert.ok(Array.isArray(base.stages));
  const gpu = { kind: "apply", queue: "gpu", vcpus: 4, memoryMiB: 14_336 };
  const stages = base.stages.map((stage: Json) => ({ ...(isJsonObject(stage) ? stage : {}), ...gpu }));
  const { calls } = await run({ plan: { ...base, stages } });
  const submissions = calls.filter(([task]) => task === "batch").map(([, payload]) => payload);
  assert.equal(submissions.length, 2);
  for (const submission of submissions) {
    assert.ok(isJsonObject(submission) && isJsonObject(submission.ContainerOverrides));
    assert.equal(submission.JobQueue, NAMES.GpuQueue);
    assert.equal(submission.JobDefinition, NAMES.GpuWorkerJobDefinition);
    assert.deepEqual(submission.ContainerOverrides.ResourceRequirements, [
      { Type: "VCPU", Value: "4" },
      { Type: "MEMORY", Value: "14336" },
    ]);
  }
});

test("a plan without stages goes straight to its check", async () => {
  const { calls } = await run({ plan: planned([]) });
  assert.deepEqual(calls, [["plan", INPUT], ...SUCCESS]);
});

test("an unchanged plan runs nothing and says so", async () => {
  const current = { version: "w", run: null };
  const plan = { ...planned([]), outcome: "unchanged", version: "v", current };
  const { result, calls } = await run({ plan });
  assert.deepEqual(calls, [
    ["plan", INPUT],
    ["notify", { ...REF, outcome: "unchanged" }],
  ]);
  const unchanged = { ...PUBLISHED, outcome: "unchanged", current, files: 0, bytes: 0 };
  assert.deepEqual(result, { status: "SUCCEEDED", output: { result: unchanged, summary: { units: 3 } } });
});

test("an unchanged run that publishes nothing has no current version", async () => {
  const plan = { ...planned([]), outcome: "unchanged", model: null, channel: null };
  const { result } = await run({ plan });
  assert.ok(result.status === "SUCCEEDED" && isJsonObject(result.output) && isJsonObject(result.output.result));
  assert.equal(result.output.result.current, null);
  assert.equal(result.output.result.version, null);
});

test("a submission that Batch itself did not take is made again, for one job and for an array", async () => {
  const fail = { batch: ["Batch.TooManyRequestsException", "Batch.ServerException", "Batch.AWSBatchException"] };
  for (const jobs of [1, 2]) {
    const { result, calls } = await run({ plan: planned([jobs]), fail });
    assert.equal(result.status, "SUCCEEDED");
    assert.equal(calls.filter(([task]) => task === "batch").length, 4);
  }
});

test("a job that failed is not submitted again: Batch has tried it as often as it may be", async () => {
  const { result, calls } = await run({ plan: planned([2]), fail: { batch: ["States.TaskFailed"] } });
  assert.equal(result.status, "FAILED");
  assert.equal(calls.filter(([task]) => task === "batch").length, 1);
});

for (const [state, task, before] of [
  ["RunStageJob", "batch", ["plan"]],
  ["Check", "check", ["plan", "batch"]],
  ["Publish", "publish", ["plan", "batch", "check"]],
  ["Notify", "notify", ["plan", "batch", "check", "publish"]],
] as const) {
  test(`a failure of ${state} is recorded, told and ends the execution`, async () => {
    const { result, calls } = await run({ plan: planned([1]), fail: { [task]: ["Broken"] } });
    assert.deepEqual(
      calls.map(([name]) => name),
      [...before, task, "record-failure", "notify"],
    );
    assert.deepEqual(calls.at(-2)?.[1], { ...REF, state, error: { Error: "Broken", Cause: `${task} failed` } });
    assert.deepEqual(calls.at(-1)?.[1], { ...REF, outcome: "failed" });
    assert.deepEqual(result, { status: "FAILED", error: "Broken", cause: `${task} failed` });
  });
}

test("a plan that fails is recorded without a run", async () => {
  const { result, calls } = await run({ plan: null, fail: { plan: ["RecipeKeyUnknown"] } });
  const error = { Error: "RecipeKeyUnknown", Cause: "plan failed" };
  assert.deepEqual(calls.slice(1), [
    ["record-failure", { yard: INPUT.yard, run: null, state: "Plan", error }],
    ["notify", { yard: INPUT.yard, run: null, outcome: "failed" }],
  ]);
  assert.deepEqual(result, { status: "FAILED", error: "RecipeKeyUnknown", cause: "plan failed" });
});

test("a failure to record or to tell does not hide the first error", async () => {
  const fail = { check: ["First"], "record-failure": ["Second"], notify: ["Third"] };
  const { result, calls } = await run({ plan: planned([1]), fail });
  assert.deepEqual(
    calls.map(([name]) => name),
    ["plan", "batch", "check", "record-failure", "notify"],
  );
  assert.deepEqual(result, { status: "FAILED", error: "First", cause: "check failed" });
});

test("transient errors of a function are tried again, other errors are not", async () => {
  const { result, calls } = await run({
    plan: planned([1]),
    fail: { publish: ["StoreUnavailable", "Lambda.ServiceException"], batch: [] },
  });
  assert.equal(result.status, "SUCCEEDED");
  assert.equal(calls.filter(([name]) => name === "publish").length, 3);
});

test("transient errors of a job are not tried again", async () => {
  const { result, calls } = await run({ plan: planned([1]), fail: { batch: ["StoreUnavailable"] } });
  assert.equal(result.status, "FAILED");
  assert.equal(calls.filter(([name]) => name === "batch").length, 1);
});
