// Cuts the shards of a folder of quantized parts into regions, which one thread writes from start to end, and says how
// much memory a thread takes. Neither changes a byte: a tensor's parts are made by one thread, whole.
import assert from "node:assert/strict";
import type { PlannedShard } from "../core/formats/safetensors/shard-plan.ts";
import {
  type CompressedMatrix,
  type CompressedModel,
  type CompressedUnit,
  specsOf,
} from "../core/plan/compressed-model.ts";
import { type Fit, fitMemory, hessianBytes, needFit } from "../core/plan/memory.ts";
import { knownFolderScheme } from "../core/schemes/registry.ts";
import type { Region } from "../stores/store.ts";
import type { PartsRequest } from "./parts-request.ts";
import {
  elementPiecesBytes,
  keptBytes,
  measuredRows,
  rowReaderBytes,
  streamBytes,
  windowRows,
} from "./quantize-parts.ts";
import { REGION_BYTES_MIN, regionBytes } from "./region-size.ts";

/** A tensor of the file, and the unit that it is a part of. */
export type PlacedPart = { readonly name: string; readonly bytes: number; readonly unit: CompressedUnit };

export type PartsRegion = Region & {
  readonly tensors: readonly PlacedPart[];
  /** It holds parts of units that other regions begin, and is made after them. At most the last one. */
  readonly isLate: boolean;
};

/**
 * Regions of a shard in order; they cover it exactly, the first one with the header. Units are not cut, but parts that
 * lie apart from the rest of theirs are all in the last region.
 */
export function cutParts(
  { header, tensors, fileBytes }: PlannedShard,
  units: CompressedModel["units"],
  threads: number,
): readonly PartsRegion[] {
  const makers = makersOf(units);
  const target = regionBytes(fileBytes, threads);
  const regions: PartsRegion[] = [];
  const begun = new Set<CompressedUnit>();
  let [offset, bytes, placed, isLate]: [number, number, PlacedPart[], boolean] = [0, header.byteLength, [], false];
  const close = (): void => {
    regions.push({ offset, bytes, tensors: placed, isLate });
    for (const { unit } of placed) begun.add(unit);
    [offset, bytes, placed] = [offset + bytes, 0, []];
  };
  for (const { name, bytes: own } of tensors) {
    const unit = makers.get(name);
    assert.ok(unit !== undefined, "every planned tensor has a unit");
    const before = placed.at(-1)?.unit;
    const comesBack = unit !== before && (begun.has(unit) || placed.some((part) => part.unit === unit));
    const enough = comesBack ? REGION_BYTES_MIN : target;
    if (!isLate && unit !== before && bytes >= enough) close();
    isLate ||= begun.has(unit);
    placed.push({ name, bytes: own, unit });
    bytes += own;
  }
  if (bytes > 0) close();
  return regions;
}

/** Units by the names of the tensors that they become. */
function makersOf(units: CompressedModel["units"]): ReadonlyMap<string, CompressedUnit> {
  return new Map(units.flatMap((unit) => specsOf(unit).map(({ name }) => [name, unit] as const)));
}

/** The part of each matrix that streams out, as it comes first in the file: the others are kept meanwhile. */
function firstParts(
  shards: readonly PlannedShard[],
  units: CompressedModel["units"],
): ReadonlyMap<CompressedUnit, string> {
  const makers = makersOf(units);
  const firsts = new Map<CompressedUnit, string>();
  for (const { name } of shards.flatMap(({ tensors }) => tensors)) {
    const unit = makers.get(name);
    if (unit?.kind === "matrix" && !firsts.has(unit)) firsts.set(unit, name.slice(unit.module.length + 1));
  }
  return firsts;
}

/** Threads for the request within its memory. Throws EngineMemoryTooSmall when one does not fit. */
export function fitParts(request: PartsRequest, threads: number): Fit {
  const { units, shards } = request.model;
  const kernelBytes = units.reduce((most, unit) => Math.max(most, unitBytes(unit)), 0);
  const matrices = units.filter((unit) => unit.kind === "matrix");
  const firsts = firstParts(shards, units);
  const kept = matrices.reduce((most, unit) => Math.max(most, keptBytes(unit.parts, firsts.get(unit))), 0);
  const late = shards.reduce((most, shard) => Math.max(most, lateBytes(shard, units, request.threads)), 0);
  const hessian =
    request.hessians === undefined ? 0 : matrices.reduce((most, unit) => Math.max(most, hessianBytes(unit.matrix)), 0);
  const fit = fitMemory(() => kernelBytes + kept + hessian, { threads, memoryBytes: request.memoryBytes - 2 * late });
  // Late parts lie here and in the thread that gets them.
  const whole = { ...fit, threadBytes: kernelBytes, peakBytes: fit.peakBytes + 2 * late };
  return needFit(whole, request.memoryBytes, { store: request.target });
}

/** Parts that wait for the last region of a shard. */
function lateBytes(shard: PlannedShard, units: CompressedModel["units"], threads: number): number {
  const regions = cutParts(shard, units, threads);
  const last = regions.at(-1);
  if (last?.isLate !== true) return 0;
  const begun = new Set(regions.slice(0, -1).flatMap(({ tensors }) => tensors.map(({ unit }) => unit)));
  return last.tensors.filter(({ unit }) => begun.has(unit)).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Kernel memory for one unit. */
function unitBytes(unit: CompressedUnit): number {
  if (unit.kind === "copy") return unit.entry.packing === undefined ? 0 : elementPiecesBytes(unit.entry);
  const { matrix, entry } = unit;
  const scheme = knownFolderScheme(unit.scheme);
  const streamed = rowReaderBytes(entry, matrix.columns, windowRows(scheme, matrix)) + streamBytes(scheme, matrix);
  return Math.max(streamed, measuringBytes(unit));
}

function measuringBytes({ fused }: CompressedMatrix): number {
  const each = fused.map((entry) => {
    const [rows = 0, columns = 0] = entry.shape;
    return rowReaderBytes(entry, columns, measuredRows({ rows, columns, dtype: "F32" }));
  });
  return Math.max(...each);
}
