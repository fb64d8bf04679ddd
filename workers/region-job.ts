// The kinds of work that threads do on a region of an output file, and the one place that tells them apart.
import type { PartTotals } from "../core/methods/whole-model.ts";
import { type MeasureTask, measureTensors } from "../engine/measure-tensors.ts";
import { mergeRegion, type RegionDeps, type RegionResult, type RegionTask } from "../engine/merge-region.ts";
import { type QuantizeRegionResult, type QuantizeRegionTask, quantizeRegion } from "../engine/quantize-region.ts";

export type RegionJob =
  | { readonly kind: "merge"; readonly task: RegionTask }
  | { readonly kind: "measure"; readonly task: MeasureTask }
  | { readonly kind: "quantize"; readonly task: QuantizeRegionTask };

/** What became of a job, of the same kind. */
export type RegionOutcome =
  | { readonly kind: "merge"; readonly result: RegionResult }
  | { readonly kind: "measure"; readonly result: PartTotals }
  | { readonly kind: "quantize"; readonly result: QuantizeRegionResult };

/** Does one region with the kernels of the calling thread. */
export async function runRegionJob(job: RegionJob, deps: RegionDeps): Promise<RegionOutcome> {
  if (job.kind === "merge") return { kind: job.kind, result: await mergeRegion(job.task, deps) };
  if (job.kind === "measure") return { kind: job.kind, result: await measureTensors(job.task, deps) };
  return { kind: job.kind, result: await quantizeRegion(job.task, deps) };
}
