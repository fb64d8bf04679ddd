// The kinds of work that threads do on a region of an output file, and the one place that tells them apart.
import type { Digest } from "../core/artifact/digest.ts";
import type { PartTotals } from "../core/artifact/totals.ts";
import type { Kernels } from "../core/ops/kernels.ts";
import type { ApproximateTask, Approximation } from "../engine/approximate-request.ts";
import type { ConvertRegionResult, ConvertRegionTask } from "../engine/convert-region.ts";
import type { MeasureTask } from "../engine/measure-tensors.ts";
import type { RegionDeps, RegionResult, RegionTask } from "../engine/merge-region.ts";
import type { QuantizeRegionResult, QuantizeRegionTask } from "../engine/quantize-region.ts";
import type { StoredRange } from "../engine/request.ts";
import type { LargestTask, PartsRegionResult, PartsRegionTask } from "../engine/write-parts.ts";

export type RegionJob =
  | { readonly kind: "merge"; readonly task: RegionTask }
  | { readonly kind: "measure"; readonly task: MeasureTask }
  | { readonly kind: "quantize"; readonly task: QuantizeRegionTask }
  | { readonly kind: "convert"; readonly task: ConvertRegionTask }
  | { readonly kind: "digest"; readonly ranges: readonly StoredRange[] }
  | { readonly kind: "parts"; readonly task: PartsRegionTask }
  | { readonly kind: "largest"; readonly task: LargestTask }
  | { readonly kind: "approximate"; readonly task: ApproximateTask };

/** What became of a job, of the same kind. */
export type RegionOutcome =
  | { readonly kind: "merge"; readonly result: RegionResult }
  | { readonly kind: "measure"; readonly result: PartTotals }
  | { readonly kind: "quantize"; readonly result: QuantizeRegionResult }
  | { readonly kind: "convert"; readonly result: ConvertRegionResult }
  | { readonly kind: "digest"; readonly result: readonly Digest[] }
  | { readonly kind: "parts"; readonly result: PartsRegionResult }
  | { readonly kind: "largest"; readonly result: number }
  | { readonly kind: "approximate"; readonly result: Approximation };

/** Kernels of at least a capacity. */
export type KeepKernels = (capacityBytes: number) => Promise<Kernels>;

/** The kernels of one thread: loaded and made for the first work that asks for them, and kept for the next. */
export function createKernelKeeper(): KeepKernels {
  let memory: WebAssembly.Memory | undefined;
  let kept: { readonly kernels: Kernels; readonly capacityBytes: number } | undefined;
  return async (capacityBytes) => {
    if (kept !== undefined && kept.capacityBytes >= capacityBytes) return kept.kernels;
    const { createKernelMemory, createWasmKernels } = await import("../kernels/wasm/host.ts");
    memory ??= createKernelMemory();
    kept = { kernels: createWasmKernels(capacityBytes, memory), capacityBytes };
    return kept.kernels;
  };
}

/** What a thread gives its work. */
type ThreadDeps = Omit<RegionDeps, "kernels"> & { readonly kernels: () => Promise<Kernels> };

/** Does one region with the kernels of the calling thread. Code is loaded for the kinds that come. */
export async function runRegionJob(job: RegionJob, { kernels, ...deps }: ThreadDeps): Promise<RegionOutcome> {
  if (job.kind === "convert") {
    const { convertRegion } = await import("../engine/convert-region.ts");
    return { kind: job.kind, result: await convertRegion(job.task, deps) };
  }
  if (job.kind === "digest") {
    const { digestRanges } = await import("../engine/digest-ranges.ts");
    return { kind: job.kind, result: await digestRanges(job.ranges, deps) };
  }
  const computing = { ...deps, kernels: await kernels() };
  if (job.kind === "merge") {
    const { mergeRegion } = await import("../engine/merge-region.ts");
    return { kind: job.kind, result: await mergeRegion(job.task, computing) };
  }
  if (job.kind === "measure") {
    const { measureTensors } = await import("../engine/measure-tensors.ts");
    return { kind: job.kind, result: await measureTensors(job.task, computing) };
  }
  if (job.kind === "quantize") {
    const { quantizeRegion } = await import("../engine/quantize-region.ts");
    return { kind: job.kind, result: await quantizeRegion(job.task, computing) };
  }
  if (job.kind === "approximate") {
    const { approximateRows } = await import("../engine/approximate-rows.ts");
    return { kind: job.kind, result: await approximateRows(job.task, computing) };
  }
  const { measureLargestOf, writeParts } = await import("../engine/write-parts.ts");
  if (job.kind === "parts") return { kind: job.kind, result: await writeParts(job.task, computing) };
  return { kind: job.kind, result: await measureLargestOf(job.task, computing) };
}
