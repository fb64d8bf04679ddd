// The rounds of one planned merge in one process, totals in memory: what prepare stages do over many. Whoever calls it
// says how a unit is measured.
import assert from "node:assert/strict";
import { joinTotals, type PartTotals, totalModel } from "../core/artifact/totals.ts";
import type { ModelState } from "../core/methods/method.ts";
import type { MergePlan } from "../core/plan/plan-merge.ts";
import type { MergeUnit, PrepareUnit } from "../core/plan/schema.ts";

/** Measures a merge unit's tensors for the round of a prepare unit, which knows what earlier rounds decided. */
export type MeasureUnit = (unit: MergeUnit, prepare: PrepareUnit, state: ModelState) => Promise<PartTotals>;

/** What all rounds decide; undefined for a merge without any. */
export async function runRounds(plan: MergePlan, measure: MeasureUnit): Promise<ModelState | undefined> {
  const { whole, units, prepare } = plan;
  if (whole === undefined) return undefined;
  let state: ModelState = {};
  for (const [index, round] of whole.rounds.entries()) {
    const parts: PartTotals[] = [];
    for (const own of prepare[index] ?? []) {
      const unit = units[own.of.index];
      assert.ok(unit !== undefined, "a prepare unit names a merge unit");
      parts.push(await measure(unit, own, state));
    }
    const specs = round.totals(whole.model);
    const totals = totalModel(specs, joinTotals(specs, parts));
    state = { ...state, ...round.decide(totals, whole.model, state) };
  }
  return state;
}
