// One round of a method over some tensors of a merge unit: every tensor measured, their totals put together. Runs in a
// worker thread as merging does; everything that crosses the thread's border is plain data.
import assert from "node:assert/strict";
import { joinTotals, type PartTotals } from "../core/artifact/totals.ts";
import type { MergeMethod, Round, TotalSpecs } from "../core/methods/method.ts";
import type { MergeUnit, UnitTensor } from "../core/plan/schema.ts";
import { type InputTask, inputContext, methodOf, type RegionDeps } from "./merge-region.ts";
import { measureTensor } from "./merge-tensor.ts";

/** Tensors of one method; `round` counts among the method's rounds. */
export type MeasureTask = InputTask & {
  readonly round: number;
  readonly tensors: readonly UnitTensor[];
};

/** Measures the tensors of a task, in order. Throws EngineNonFinite, EngineInputChanged and what the store throws. */
export async function measureTensors(task: MeasureTask, deps: RegionDeps): Promise<PartTotals> {
  let all: PartTotals | undefined;
  for (const tensor of task.tensors) {
    deps.signal.throwIfAborted();
    const { method, round, specs } = roundOf(tensor, task.round);
    const mark = deps.kernels.mark();
    try {
      const values = await measureTensor({ ...inputContext(task, tensor, deps), method }, round);
      const own = { tensors: [tensor.name], values };
      all = all === undefined ? own : joinTotals(specs, [all, own]);
    } finally {
      deps.kernels.release(mark);
    }
  }
  assert.ok(all !== undefined, "a task has tensors");
  return all;
}

/** Tensors of a unit whose method must know the whole model. */
export function measuredTensors(unit: MergeUnit): readonly UnitTensor[] {
  return unit.tensors.filter((tensor) => methodOf(tensor)?.wholeModel !== undefined);
}

/** A round of the tensor's method, and the totals that it gathers. */
export function roundOf(
  tensor: UnitTensor,
  index: number,
): { readonly method: MergeMethod; readonly round: Round; readonly specs: TotalSpecs } {
  const method = methodOf(tensor);
  const round = method?.wholeModel?.rounds(tensor)[index];
  assert.ok(method !== undefined && round !== undefined, `${tensor.method} has no round ${index}`);
  return { method, round, specs: round.totals(tensor) };
}
