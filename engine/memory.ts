// The windows and threads of a merge unit on this machine, within a bound on memory. Neither ever changes a result.
import {
  type Fit,
  fitMemory,
  keptBytes,
  kernelBytes,
  type Machine,
  measuringBytes,
  needFit,
  sinkBytes,
} from "../core/plan/memory.ts";
import type { MergeUnit } from "../core/plan/schema.ts";
import { measuredTensors, roundOf } from "./measure-tensors.ts";
import { methodOf } from "./merge-region.ts";

/** A copied tensor as memory sees it. */
const COPY = { locality: "element" } as const;

/** `keptBytes`: kernel memory of each thread, part of `threadBytes`, for inputs that several passes need. */
export type UnitFit = Fit & { readonly keptBytes: number };

/**
 * How a unit runs on a machine. Throws EngineMemoryTooSmall when one thread with the smallest window does not
 * fit.
 */
export function fitUnit(unit: MergeUnit, machine: Machine): UnitFit {
  const { memoryBytes } = machine;
  const least = fitMemory((windowElements) => threadBytes(unit, windowElements), machine);
  const fit = needFit(least, memoryBytes, { file: unit.file });
  const kept = keptBytes(fit, memoryBytes, unit.tensors);
  return {
    ...fit,
    keptBytes: kept,
    threadBytes: fit.threadBytes + kept,
    peakBytes: fit.peakBytes + fit.threads * kept,
  };
}

/** How a round of a unit's method is measured on a machine. Throws EngineMemoryTooSmall. */
export function fitMeasuring(unit: MergeUnit, round: number, machine: Machine): Fit {
  const tensors = measuredTensors(unit).map((tensor) => ({ tensor, ...roundOf(tensor, round) }));
  const needs = (windowElements: number): number =>
    tensors
      .map((own) => measuringBytes({ ...own.method, round: own.round }, own.tensor, windowElements))
      .reduce((most, one) => Math.max(most, one), 0);
  return needFit(fitMemory(needs, machine), machine.memoryBytes, { file: unit.file });
}

/** Kernel memory of a thread that may get any tensor of the unit. */
function threadBytes(unit: MergeUnit, windowElements: number): number {
  const watchers = { statistics: unit.statistics, derives: unit.derived.length > 0 };
  const bytes = unit.tensors.map((tensor) => kernelBytes(methodOf(tensor) ?? COPY, tensor, windowElements, watchers));
  return bytes.reduce((most, one) => Math.max(most, one), 0) + sinkBytes(unit.derived);
}
