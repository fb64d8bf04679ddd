// Plans of one unit, and of more units than a Batch array may have jobs: sizes of arrays, and a run of such a plan.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { FLEET_DEFAULT } from "../../core/plan/machine.ts";
import { checkStep } from "../../steps/check.ts";
import { describeError } from "../../steps/error-record.ts";
import { listStages, planStep } from "../../steps/plan.ts";
import { recordFailureStep } from "../../steps/record-failure.ts";
import { JOBS_MAX } from "../../steps/schemas.ts";
import { runStep, type StepEvent } from "../../steps/step.ts";
import { recordUnitFailure } from "../../steps/units/failures.ts";
import { writeBytes } from "../../stores/objects.ts";
import { BUILDS, planSynthetic } from "../../tools/bench-plan.ts";
import { runJob } from "../../workers/main.ts";
import { newStore, newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";

test("one unit is one job, and however many there are, an array has at most 10,000", () => {
  const build = { ...BUILDS["8B"], layers: 1200 };
  const many = listStages(planSynthetic(2, { build, shardBytes: 1, adopted: true }).header, FLEET_DEFAULT);
  assert.deepEqual(
    many.map(({ units, jobs }) => [units > JOBS_MAX, jobs]),
    [[true, 10_000]],
  );
  const one = listStages(planSynthetic(2, { shardBytes: 1e13, adopted: true }).header, FLEET_DEFAULT);
  assert.deepEqual(
    one.map(({ units, jobs }) => [units, jobs]),
    [[1, 1]],
  );
});

/** Units of the merge: a few more than an array may have jobs. */
const UNITS = JOBS_MAX + 20;

/** An upload with a tensor of four values for each unit. */
async function makeYard() {
  const yard = await newYard();
  const specs = Array.from({ length: UNITS }, (_, index) => ({
    name: `t.${index}`,
    dtype: "F32" as const,
    shape: [4],
  }));
  const { header, fileBytes } = encodeSafetensorsHeader(specs);
  const file = new Uint8Array(fileBytes).fill(63, header.length);
  file.set(header);
  await writeBytes(yard, "incoming/m/1/model.safetensors", file);
  const merge = "merge_method: linear\n  models: [{ model: m, parameters: { weight: 0.5 } }]";
  await putText(yard, "pipelines/p.yaml", `name: many\nmodels: { m: incoming/m }\nmerge:\n  ${merge}\n`);
  const opener = openerOf(yard);
  const deps = testDeps(opener, { executeMerge: createInThreadExecutor(opener) });
  const pipeline = { store: yard.uri, key: "pipelines/p.yaml" };
  const planned = await runStep(planStep, { yard: yard.uri, pipeline, shardBytes: 16 }, deps);
  const job = async (stage: number, jobs: number, index: number) => {
    const events: StepEvent[] = [];
    const variables = { MERGEYARD_YARD: yard.uri, MERGEYARD_RUN: planned.run, MERGEYARD_STAGE: String(stage) };
    const array = { MERGEYARD_JOBS: String(jobs), AWS_BATCH_JOB_ARRAY_INDEX: String(index) };
    const log = (event: StepEvent) => void events.push(event);
    assert.equal(await runJob({ ...variables, ...array }, { ...deps, log }), 0);
    return events.filter(({ event }) => event === "unit-finished").map(({ unit }) => Number(unit));
  };
  return { yard, deps, planned, job };
}

test("a run of more units than an array has jobs is planned, done, each unit once, and checked", async () => {
  const { yard, deps, planned, job } = await makeYard();
  const [adopt, describe, merge] = planned.stages;
  assert.deepEqual([merge?.kind, merge?.units], ["apply", UNITS]);
  for (const stage of [adopt, describe]) await job(stage?.index ?? 0, 1, 0);
  const stage = merge?.index ?? 0;
  assert.deepEqual(await job(stage, JOBS_MAX, 0), [0, JOBS_MAX]);
  assert.deepEqual(await job(stage, JOBS_MAX, 19), [19, UNITS - 1]);
  assert.deepEqual(await job(stage, JOBS_MAX, 20), [20]);
  assert.deepEqual(await job(stage, JOBS_MAX, JOBS_MAX - 1), [JOBS_MAX - 1]);
  const ref = { yard: yard.uri, run: planned.run };
  await assert.rejects(runStep(checkStep, ref, deps), { code: "YardUnitsUnfinished" });
  assert.equal((await job(stage, 1, 0)).length, UNITS - 6, "those of the jobs above are not done again");
  const { units, files, tensors } = await runStep(checkStep, ref, deps);
  assert.deepEqual([units, files, tensors], [UNITS + 2, UNITS, UNITS]);
});

test("an array of which thousands of units failed ends in one error that counts them and names the first", async () => {
  const yard = newStore();
  const error = describeError(new MergeyardError("YardSourceChanged", { where: { model: "m" }, found: "other bytes" }));
  for (let index = 9_999; index >= 7_000; index -= 1) await recordUnitFailure(yard, "r", { stage: 2, index, error });
  const caught = {
    Error: "States.TaskFailed",
    Cause: JSON.stringify({ JobId: "1", StatusReason: "Array Child Job failed" }),
  };
  const input = { yard: yard.uri, run: "r", state: "RunStageArray", error: caught };
  const record = await runStep(recordFailureStep, input, testDeps(openerOf(yard)));
  assert.deepEqual([record.error.code, record.unitsFailed, record.units.length], ["YardSourceChanged", 3000, 20]);
  assert.deepEqual(record.error.where, { model: "m", stage: 2, unit: 7000 });
  assert.ok(JSON.stringify(record).length < 32_768, "fits the cause of an execution");
});
