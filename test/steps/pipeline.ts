// A yard for pipeline tests and the whole pipeline as the state machine runs it: plan, units, check, publish, notify.
import { checkStep } from "../../steps/check.ts";
import { notifyStep } from "../../steps/notify.ts";
import { planStep } from "../../steps/plan.ts";
import { publishStep } from "../../steps/publish.ts";
import type { PlanOutput, PublishOutput, RunRef } from "../../steps/schemas.ts";
import { runStep, type UnitDeps } from "../../steps/step.ts";
import { openRun } from "../../steps/units/context.ts";
import { runUnit, type UnitEnd } from "../../steps/units/run-unit.ts";
import { initYard } from "../../steps/yard.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { putText } from "./deps.ts";
import { putModel } from "./small-model.ts";

/** Two documents: the first's result is one of the second's models. */
export const documentsRecipe = (weight: number): string => `name: half
merge_method: linear
parameters: { weight: 0.5 }
models: [{ model: one }, { model: two }]
---
name: several
models: { one: incoming/a, two: incoming/b }
merge:
  merge_method: linear
  models:
    - { model: half, parameters: { weight: 1 } }
    - { model: one, parameters: { weight: ${weight} } }
publish: { model: several, channel: nightly }
`;

/** A pipeline over the uploads `a` and `b`. */
export function recipe(weight: number, publish = "publish: { model: ab, channel: nightly }"): string {
  return `name: small
models: { one: incoming/a, two: incoming/b }
merge:
  merge_method: linear
  models:
    - { model: one, parameters: { weight: ${weight} } }
    - { model: two, parameters: { weight: 0.5 } }
  dtype: bfloat16
${publish}
`;
}

/** A yard with two uploads and the pipeline `small`. */
export async function makeYard(yard: ObjectStore): Promise<void> {
  await initYard(yard);
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  await putText(yard, "pipelines/small.yaml", recipe(0.5));
}

export type PipelineEnd = { readonly plan: PlanOutput; readonly result: PublishOutput | undefined };

/** Plans the pipeline with output files small enough that there are several. */
export function plan(
  yard: ObjectStore,
  deps: UnitDeps,
  key = "pipelines/small.yaml",
  recipes: ObjectStore = yard,
): Promise<PlanOutput> {
  const pipeline = { store: recipes.uri, key };
  return runStep(planStep, { yard: yard.uri, pipeline, shardBytes: 400 }, deps);
}

/** Opens a run for one unit of it. */
export async function runOneUnit(ref: RunRef, stage: number, index: number, deps: UnitDeps): Promise<UnitEnd> {
  return runUnit(await openRun(ref, deps), stage, index);
}

/** Runs all units of a plan, in order. */
export async function runUnits(planned: PlanOutput, deps: UnitDeps): Promise<void> {
  const { yard, run } = planned;
  for (const stage of planned.stages) {
    for (let index = 0; index < stage.units; index += 1) {
      await runOneUnit({ yard, run }, stage.index, index, deps);
    }
  }
}

/** The whole pipeline; `result` is undefined when the plan found nothing changed. */
export async function runPipeline(
  yard: ObjectStore,
  deps: UnitDeps,
  key?: string,
  recipes?: ObjectStore,
): Promise<PipelineEnd> {
  return finishPipeline(await plan(yard, deps, key, recipes), deps);
}

/** What follows the plan. */
export async function finishPipeline(planned: PlanOutput, deps: UnitDeps): Promise<PipelineEnd> {
  if (planned.outcome === "unchanged") return { plan: planned, result: undefined };
  await runUnits(planned, deps);
  const ref = { yard: planned.yard, run: planned.run };
  await runStep(checkStep, ref, deps);
  const result = await runStep(publishStep, { ...ref, plannedMs: planned.plannedMs }, deps);
  await runStep(notifyStep, { ...ref, outcome: result.outcome }, deps);
  return { plan: planned, result };
}
