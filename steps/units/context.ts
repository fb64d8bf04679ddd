// What the units of one run share while a worker runs them: the yard, the plan, and where the plan's sources lie now.
// Made once per worker, so that plan and source listings are read once.
import assert from "node:assert/strict";
import { layout } from "../../core/artifact/layout.ts";
import { MergeyardError } from "../../core/error.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import type { ModelState } from "../../core/methods/method.ts";
import { type Receipt, receiptSchema } from "../../core/plan/receipt.ts";
import type { PlanSource } from "../../core/plan/schema.ts";
import type { ResolvedSource } from "../../engine/request.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readDigests } from "../checkpoint-listing.ts";
import { readPlan, type StoredPlan } from "../plan-file.ts";
import { readRecord } from "../records.ts";
import type { RunRef } from "../schemas.ts";
import type { StepDeps } from "../step.ts";
import { openYard } from "../yard.ts";

/** A source of the plan and where it lies now. */
export type UnitSource = {
  readonly planned: PlanSource;
  readonly resolved: ResolvedSource;
  /** Digest of the universal checkpoint or version that it is; undefined for a foreign folder. */
  readonly digest: string | undefined;
};

export type UnitContext<Deps extends StepDeps = StepDeps> = {
  readonly yard: ObjectStore;
  readonly run: string;
  readonly plan: StoredPlan;
  readonly deps: Deps;
  /** Where a source lies now; a pending one is known once its describe unit has its receipt. */
  source(index: number): Promise<UnitSource>;
  /** What rounds have decided, by the stage of the last of them; made as it is asked for (steps/units/prepare.ts). */
  readonly decided: Map<number, Promise<ModelState>>;
};

/** Opens a run. Throws YardMissing, YardRunMissing. */
export async function openRun<Deps extends StepDeps>(ref: RunRef, deps: Deps): Promise<UnitContext<Deps>> {
  const yard = await openYard(deps.openStore, ref.yard);
  const plan = await readPlan(yard, ref.run, deps.signal);
  const known = new Map<number, Promise<UnitSource>>();
  const context: UnitContext<Deps> = {
    yard,
    run: ref.run,
    plan,
    deps,
    decided: new Map(),
    source(index) {
      const found = known.get(index);
      if (found !== undefined) return found;
      const located = locateSource(context, index);
      known.set(index, located);
      located.catch(() => known.delete(index)); // a later unit may try again
      return located;
    },
  };
  return context;
}

async function locateSource(context: UnitContext, index: number): Promise<UnitSource> {
  const { yard, plan, deps } = context;
  const planned = plan.header.sources[index];
  assert.ok(planned !== undefined, `the plan has no source ${index}`);
  const { model, store, prefix } = planned;
  if (planned.state === "foreign") {
    return { planned, resolved: { model, store, prefix, digests: undefined }, digest: undefined };
  }
  if (planned.state === "adopted") {
    const { digest, digests } = await readDigests(deps.openStore(store), prefix, deps.signal);
    return { planned, resolved: { model, store, prefix, digests }, digest };
  }
  if (planned.state === "merged") return locateMerged(context, planned);
  assert.ok(planned.describedBy !== undefined, `source ${index} is pending, but no unit describes it`);
  const receipt = await needReceipt(context, planned.describedBy.stage, planned.describedBy.index);
  assert.ok(receipt.checkpoint !== null, "the receipt of a describe unit names its checkpoint");
  const adopted = { model, store: yard.uri, prefix: receipt.checkpoint.prefix };
  const { digest, digests } = await readDigests(yard, adopted.prefix, deps.signal);
  return { planned, resolved: { ...adopted, digests }, digest };
}

/** The result of an earlier stage: its files lie in the run, its digests are in the stage's receipts. */
async function locateMerged(context: UnitContext, planned: PlanSource): Promise<UnitSource> {
  const { yard, run, plan } = context;
  const stage = plan.header.stages.find(({ index }) => index === planned.mergedBy?.stage);
  assert.ok(stage !== undefined, `the plan has no stage that merges ${planned.model}`);
  const units = Array.from({ length: stage.units }, (_, index) => index);
  const receipts = await mapBounded(units, (index) => needReceipt(context, stage.index, index));
  const tensors = receipts.flatMap(({ file }) => file?.tensors ?? []);
  const digests = Object.fromEntries(tensors.map(({ name, digest }) => [name, digest]));
  const prefix = layout.stageOutput(run, stage.index);
  return { planned, resolved: { model: planned.model, store: yard.uri, prefix, digests }, digest: undefined };
}

/** The receipt of a unit, undefined when it has none yet. */
export async function findReceipt(context: UnitContext, stage: number, index: number): Promise<Receipt | undefined> {
  const key = layout.receipt(context.run, stage, index);
  return (await readRecord(context.yard, key, receiptSchema, context.deps.signal))?.value;
}

/** The receipt of a unit of an earlier stage. Throws YardUnitsUnfinished when it has none. */
export async function needReceipt(context: UnitContext, stage: number, index: number): Promise<Receipt> {
  const receipt = await findReceipt(context, stage, index);
  if (receipt !== undefined) return receipt;
  throw new MergeyardError("YardUnitsUnfinished", {
    where: { store: context.yard.uri, unit: index },
    expected: layout.receipt(context.run, stage, index),
  });
}
