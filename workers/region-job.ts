// The kinds of work that threads do on a region of an output file, and the one place that tells them apart.
import type { PartTotals } from "../core/methods/whole-model.ts";
import { type MeasureTask, measureTensors } from "../engine/measure-tensors.ts";
import { mergeRegion, type RegionDeps, type RegionResult, type RegionTask } from "../engine/merge-region.ts";
import { type QuantizeRegionResult, type QuantizeRegionTask, quantizeRegion } from "../engine/quantize-region.ts";
import {
  type LargestTask,
  measureLargestOf,
  type PartsRegionResult,
  type PartsRegionTask,
  writeParts,
} from "../engine/write-parts.ts";

export type RegionJob =
  | { readonly kind: "merge"; readonly task: RegionTask }
  | { readonly kind: "measure"; readonly task: MeasureTask }
  | { readonly kind: "quantize"; readonly task: QuantizeRegionTask }
  | { readonly kind: "parts"; readonly task: PartsRegionTask }
  | { readonly kind: "largest"; readonly task: LargestTask };

/** What became of a job, of the same kind. */
export type RegionOutcome =
  | { readonly kind: "merge"; readonly result: RegionResult }
  | { readonly kind: "measure"; readonly result: PartTotals }
  | { readonly kind: "quantize"; readonly result: QuantizeRegionResult }
  | { readonly kind: "parts"; readonly result: PartsRegionResult }
  | { readonly kind: "largest"; readonly result: number };

/** Does one region with the kernels of the calling thread. */
export async function runRegionJob(job: RegionJob, deps: RegionDeps): Promise<RegionOutcome> {
  if (job.kind === "merge") return { kind: job.kind, result: await mergeRegion(job.task, deps) };
  if (job.kind === "measure") return { kind: job.kind, result: await measureTensors(job.task, deps) };
  if (job.kind === "quantize") return { kind: job.kind, result: await quantizeRegion(job.task, deps) };
  if (job.kind === "parts") return { kind: job.kind, result: await writeParts(job.task, deps) };
  return { kind: job.kind, result: await measureLargestOf(job.task, deps) };
}
