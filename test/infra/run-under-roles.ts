// A run of the real steps in which each opens its stores under the policy of its own role: what a step does that its
// role may not, fails here as it would on AWS.
import assert from "node:assert/strict";
import type { YardRole } from "../../infra/yard-access.ts";
import { checkStep } from "../../steps/check.ts";
import { notifyStep } from "../../steps/notify.ts";
import { onScheduleStep } from "../../steps/on-schedule.ts";
import { onUploadStep } from "../../steps/on-upload.ts";
import { planStep } from "../../steps/plan.ts";
import { publishStep } from "../../steps/publish.ts";
import { recordFailureStep } from "../../steps/record-failure.ts";
import type { PlanOutput } from "../../steps/schemas.ts";
import { runStep } from "../../steps/step.ts";
import { recordUnitFailure } from "../../steps/units/failures.ts";
import { initYard } from "../../steps/yard.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, putText, testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";
import { documentsRecipe, recipe, runOneUnit } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";
import { putTorch } from "../steps/torch-upload.ts";
import { type Statement, underRole } from "./policies.ts";

type Grants = Readonly<Record<Exclude<YardRole, never>, readonly Statement[]>>;

export async function runUnderRoles(grants: Grants): Promise<void> {
  const yard = newStore();
  let startMs = 1_000_000;
  const depsOf = (role: YardRole) => {
    const opener = () => underRole(yard, grants[role]);
    startMs += 1000;
    return testDeps(opener, { executeMerge: createInThreadExecutor(opener) }, startMs);
  };
  const run = { yard, depsOf };
  await initYard(underRole(yard, grants.operator));
  await upload(yard);
  const uploaded = await runStep(onUploadStep, { yard: yard.uri, key: "incoming/a/1/config.json" }, depsOf("onUpload"));
  const ticked = await runStep(
    onScheduleStep,
    { yard: yard.uri, afterMs: 0, untilMs: 86_400_000 },
    depsOf("onSchedule"),
  );
  assert.deepEqual([uploaded.starts.length, ticked.starts.length], [1, 1]);

  assert.equal(await runPipeline(run), "published");
  assert.equal(await runPipeline(run), "unchanged");
  // Units from the cache, units whose files are gone, and a channel that is moved a second time.
  await putText(yard, "pipelines/p.yaml", pipeline(0.5, "weekly"));
  assert.equal(await runPipeline(run), "published");
  await putText(yard, "pipelines/p.yaml", pipeline(0.25));
  assert.equal(await runPipeline(run, { interrupted: true }), "published");
  await putText(yard, "pipelines/p.yaml", pipeline(0.5));
  assert.equal(await runPipeline(run), "published");

  // Planned when its checkpoints were there, and asked for again when an operator has removed them.
  await putText(yard, "pipelines/p.yaml", pipeline(0.125));
  const { run: abandoned } = await planned(run);
  for await (const { key } of yard.list("checkpoints/")) {
    await underRole(yard, grants.operator).delete(key);
  }
  assert.notEqual((await planned(run)).run, abandoned);
  assert.equal(await runPipeline(run), "published");
  assert.equal(await runPipeline(run), "unchanged");

  // Results that only later stages use, computed and then found again; an upload of another format, converted.
  for (const weight of [1, 2]) {
    await putText(yard, "pipelines/p.yaml", documentsRecipe(weight));
    assert.equal(await runPipeline(run), "published");
  }
  await putTorch(yard, "incoming/a/1/", "incoming/torch/1/");
  await putText(yard, "pipelines/p.yaml", pipeline(0.5).replace("incoming/a", "incoming/torch"));
  assert.notEqual(await runPipeline(run), "unchanged");

  await failUnderRoles(run);
}

type Run = { readonly yard: ObjectStore; readonly depsOf: (role: YardRole) => ReturnType<typeof testDeps> };

const pipeline = (weight: number, channel = "nightly") =>
  recipe(weight, `publish: { model: ab, channel: ${channel} }`).replace(
    "name: small",
    'name: small\non: { upload: [a], schedule: "rate(1 day)" }',
  );

async function upload(yard: ObjectStore): Promise<void> {
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  await putText(yard, "pipelines/p.yaml", pipeline(0.5));
}

async function planned({ yard, depsOf }: Run): Promise<PlanOutput> {
  const place = { store: yard.uri, key: "pipelines/p.yaml" };
  return runStep(planStep, { yard: yard.uri, pipeline: place, shardBytes: 400 }, depsOf("plan"));
}

/** `interrupted`: all units ran, their outputs are lost, and they are run again. */
async function runPipeline(run: Run, options: { readonly interrupted?: boolean } = {}): Promise<string> {
  const { yard, depsOf } = run;
  const plan = await planned(run);
  const ref = { yard: yard.uri, run: plan.run };
  if (plan.outcome === "unchanged") return plan.outcome;
  for (let round = options.interrupted === true ? 0 : 1; round < 2; round += 1) {
    for (const stage of plan.stages) {
      const role = stage.kind === "shard" ? "sharder" : "worker";
      for (let index = 0; index < stage.units; index += 1) {
        await runOneUnit(ref, stage.index, index, depsOf(role));
      }
    }
    if (round === 0) for await (const { key } of yard.list(`runs/${plan.run}/output/`)) await yard.delete(key);
  }
  await runStep(checkStep, ref, depsOf("check"));
  const { outcome } = await runStep(publishStep, { ...ref, plannedMs: plan.plannedMs }, depsOf("publish"));
  await runStep(notifyStep, { ...ref, outcome }, depsOf("notify"));
  return outcome;
}

/** A run of which a unit failed, twice. */
async function failUnderRoles(run: Run): Promise<void> {
  const { yard, depsOf } = run;
  await putText(yard, "pipelines/p.yaml", pipeline(0.75));
  const { run: id, stages } = await planned(run);
  const stage = stages[0]?.index ?? 0;
  const error = { code: "StoreFull", meaning: "full", where: {}, hint: "", retryable: false };
  for (const role of ["worker", "sharder", "worker"] as const) {
    await recordUnitFailure(depsOf(role).openStore(yard.uri), id, { stage, index: 0, error });
  }
  const caught = { Error: "States.TaskFailed", Cause: "{}" };
  for (const attempt of [1, 2]) {
    const input = { yard: yard.uri, run: id, state: "RunStageArray", error: caught };
    const record = await runStep(recordFailureStep, input, depsOf("recordFailure"));
    assert.deepEqual([record.error.code, record.key !== null], ["StoreFull", true], `attempt ${attempt}`);
  }
  await runStep(notifyStep, { yard: yard.uri, run: id, outcome: "failed" }, depsOf("notify"));
}
