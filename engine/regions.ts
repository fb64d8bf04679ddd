// Cuts the output files of a merge unit into regions: runs of whole tensors that one thread merges from start to end.
import type { DerivedFile, MergeUnit } from "../core/plan/schema.ts";
import type { Region } from "../stores/store.ts";
import { REGION_BYTES_MIN, regionBytes } from "./region-size.ts";

export type MergeRegion = Region & {
  /** Tensors [firstTensor, endTensor) of the unit, in file order. */
  readonly firstTensor: number;
  readonly endTensor: number;
  /** By the unit's derived files, the part of each that holds these tensors. */
  readonly derived: readonly Region[];
};

/**
 * Regions of the unit's files in order; the first also holds their headers' bytes. They cover every file exactly, and
 * none but the last is too small for a store.
 */
export function cutRegions(unit: MergeUnit, threads: number): readonly MergeRegion[] {
  const headerBytes = unit.fileBytes - unit.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  const target = regionBytes(unit.fileBytes, threads);
  const spans = findSpans(unit);
  const regions: MergeRegion[] = [];
  let [offset, bytes, firstTensor] = [0, headerBytes, 0];
  for (const [index, tensor] of unit.tensors.entries()) {
    bytes += tensor.bytes;
    const isLast = index === unit.tensors.length - 1;
    if ((bytes < target || spans(index)) && !isLast) continue;
    const derived = unit.derived.map((file, at) => spanOf(file, regions.at(-1)?.derived[at], index + 1));
    if (!isLast && derived.some((span) => span.bytes < REGION_BYTES_MIN)) continue;
    regions.push({ offset, bytes, firstTensor, endTensor: index + 1, derived });
    offset += bytes;
    [bytes, firstTensor] = [0, index + 1];
  }
  const [before, last] = regions.slice(-2);
  // What is left for the end may be nothing of some file.
  if (last === undefined || before === undefined || last.derived.every((span) => span.bytes > 0)) return regions;
  return [...regions.slice(0, -2), joinRegions(before, last)];
}

/** Says whether fused tensors lie on both sides of the end of a tensor: they are measured together. */
function findSpans({ derived, tensors }: MergeUnit): (index: number) => boolean {
  const ends = new Map<number, number>();
  for (const file of derived) {
    for (const tensor of file.tensors) {
      if (!("fused" in tensor) || tensor.fused === undefined) continue;
      const first = Math.min(...tensor.fused);
      ends.set(first, Math.max(ends.get(first) ?? 0, ...tensor.fused));
    }
  }
  let end = 0;
  const covered = tensors.map((_, index) => {
    end = Math.max(end, ends.get(index) ?? 0);
    return index < end;
  });
  return (index) => covered[index] === true;
}

/** Of a derived file what lies before its tensors from `endTensor` on, and was in no region yet. */
function spanOf({ tensors, fileBytes }: DerivedFile, before: Region | undefined, endTensor: number): Region {
  const offset = before === undefined ? 0 : before.offset + before.bytes;
  const next = tensors.find(({ tensor }) => tensor >= endTensor);
  return { offset, bytes: (next?.offset ?? fileBytes) - offset };
}

function joinRegions(a: MergeRegion, b: MergeRegion): MergeRegion {
  return {
    ...a,
    bytes: a.bytes + b.bytes,
    endTensor: b.endTensor,
    derived: a.derived.map((span, at) => ({ ...span, bytes: span.bytes + (b.derived[at]?.bytes ?? 0) })),
  };
}
