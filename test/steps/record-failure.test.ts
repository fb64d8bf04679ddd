import assert from "node:assert/strict";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { describeError } from "../../steps/error-record.ts";
import { recordFailureStep } from "../../steps/record-failure.ts";
import { readRecord } from "../../steps/records.ts";
import { openProgress } from "../../steps/runs/job-progress.ts";
import { failureSchema } from "../../steps/schemas.ts";
import { runStep } from "../../steps/step.ts";
import { recordUnitFailure } from "../../steps/units/failures.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createFullStore } from "./failing-stores.ts";

const thrown = new MergeyardError("YardFileCorrupt", { where: { file: "f", tensor: "t" }, found: "a", expected: "b" });

/** The cause of a failed function, as Lambda writes it. */
const functionCause = (error: Error, message = error.message) =>
  JSON.stringify({ errorType: error.name, errorMessage: message, trace: ["somewhere"] });

function record(error: { Error: string; Cause?: string }, run: string | null = "r1", store = newStore()) {
  const deps = testDeps(openerOf(store));
  return runStep(recordFailureStep, { yard: store.uri, run, state: "Publish", error }, deps);
}

test("a function's typed error is kept whole", async () => {
  const { error } = await record({ Error: thrown.name, Cause: functionCause(thrown, JSON.stringify(thrown)) });
  assert.deepEqual(error, describeError(thrown));
  assert.deepEqual(error.where, { file: "f", tensor: "t" });
});

test("a function's error that is only a name and a text still has its code's meaning and remedy", async () => {
  const { error } = await record({ Error: thrown.name, Cause: functionCause(thrown) });
  assert.deepEqual([error.code, error.meaning, error.hint], [thrown.code, describeError(thrown).meaning, thrown.hint]);
  const crash = await record({ Error: "TypeError", Cause: functionCause(new TypeError("x is not a function")) });
  assert.deepEqual([crash.error.code, crash.error.meaning], ["TypeError", "x is not a function"]);
});

test("what the platform says is kept as it says it", async () => {
  assert.equal((await record({ Error: "States.Timeout" })).error.code, "States.Timeout");
  const { error } = await record({ Error: "States.Timeout", Cause: "too late" });
  assert.deepEqual([error.code, error.meaning], ["States.Timeout", "too late"]);
});

test("a failed job is named by its units' own errors, those of finished units left out", async () => {
  const store = newStore();
  const failed = (index: number) => ({ stage: 2, index, error: describeError(thrown) });
  for (const index of [3, 5, 4]) await recordUnitFailure(store, "r1", failed(index));
  await recordUnitFailure(store, "r1", { ...failed(5), error: { ...describeError(thrown), found: "later" } });
  await putText(store, "runs/r1/receipts/000002-000003.json", "{}");
  const cause = JSON.stringify({ JobId: "1", StatusReason: "Essential container in task exited" });
  const result = await record({ Error: "States.TaskFailed", Cause: cause }, "r1", store);
  assert.equal(result.unitsFailed, 2);
  assert.deepEqual(
    result.units.map(({ index, error }) => [index, error.found]),
    [
      [4, "a"],
      [5, "later"],
    ],
  );
  assert.deepEqual(result.error.where, { file: "f", tensor: "t", stage: 2, unit: 4 });
});

test("a failed job whose workers left nothing is named by what the runner heard, else by its end", async () => {
  const job = { StatusReason: "exited", Container: { ExitCode: 137, Reason: "OutOfMemoryError" } };
  const ended = await record({ Error: "States.TaskFailed", Cause: JSON.stringify(job) });
  assert.deepEqual([ended.error.meaning, ended.error.found], ["OutOfMemoryError", "exit code 137"]);
  const heard = { ...job, Failures: [{ Index: 0 }, { Index: 1, Error: describeError(thrown) }] };
  const told = await record({ Error: "States.TaskFailed", Cause: JSON.stringify(heard) });
  assert.equal(told.error.code, "YardFileCorrupt");
});

test("of an array whose workers died without a word, the one that is missed longest is named", async () => {
  const store = newStore();
  const startMs = Date.parse("2026-11-24T02:00:00Z");
  for (const [job, state] of [
    [0, "done"],
    [1, "running"],
    [2, "running"],
    [3, "failed"],
  ] as const) {
    const deps = testDeps(openerOf(store), {}, startMs + 1000 * (5 - job));
    const place = { yard: store, run: "r1", stage: 2, job, jobs: 4, units: 9, threads: 1, memoryBytes: 1 };
    const keeper = await openProgress(place, deps);
    keeper.unitStarted(job + 4);
    if (state === "running") await keeper.beat();
    else await keeper.close(state);
  }
  const cause = JSON.stringify({ JobId: "1", StatusReason: "Array Child Job failed" });
  const { error } = await record({ Error: "States.TaskFailed", Cause: cause }, "r1", store);
  assert.deepEqual([error.code, error.where.unit], ["FlowWorkerLost", 6]);
  assert.match(
    error.found ?? "",
    /^job 2 of 4 of stage 2, attempt 1, last heard of at 2026-11-24T02:00:03\.\d+Z, and 1 more: Array Child/,
  );
});

test("a function's failure is not blamed on units that failed before", async () => {
  const store = newStore();
  await recordUnitFailure(store, "r1", { stage: 0, index: 0, error: describeError(new Error("old")) });
  const result = await record(
    { Error: thrown.name, Cause: functionCause(thrown, JSON.stringify(thrown)) },
    "r1",
    store,
  );
  assert.deepEqual([result.error.code, result.units], ["YardFileCorrupt", []]);
});

test("every failed attempt of a run keeps its record", async () => {
  const store = newStore();
  const error = { Error: "States.Timeout", Cause: "first" };
  const first = await record(error, "r1", store);
  const second = await record({ ...error, Cause: "second" }, "r1", store);
  assert.notEqual(first.key, second.key);
  const kept = await readRecord(store, second.key ?? "", failureSchema);
  assert.deepEqual([kept?.value.run, kept?.value.state, kept?.value.error.meaning], ["r1", "Publish", "second"]);
});

test("a failure is told even where it cannot be kept", async () => {
  assert.equal((await record({ Error: "YardMissing" }, null)).key, null);
  const full = createFullStore(newStore(), 1);
  const result = await record({ Error: "YardMissing" }, "r1", full.store);
  assert.deepEqual([result.key, result.error.code], [null, "YardMissing"]);
});
