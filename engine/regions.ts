// Cuts the output file of a merge unit into regions: runs of whole tensors that one thread merges from start to end.
import type { MergeUnit } from "../core/plan/schema.ts";
import type { Region } from "../stores/store.ts";

/**
 * Smallest region but the last: a store may need parts of at least 5 MiB (S3), and threads want work worth a message.
 */
const REGION_BYTES_MIN = 8 * 2 ** 20;
/** Enough regions that threads end together. */
const REGIONS_PER_THREAD = 8;

export type MergeRegion = Region & {
  /** Tensors [firstTensor, endTensor) of the unit, in file order. */
  readonly firstTensor: number;
  readonly endTensor: number;
};

/** Regions of the file in order; the first also holds the header's bytes. They cover the file exactly. */
export function cutRegions(unit: MergeUnit, threads: number): readonly MergeRegion[] {
  const headerBytes = unit.fileBytes - unit.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  const target = Math.max(REGION_BYTES_MIN, Math.ceil(unit.fileBytes / (threads * REGIONS_PER_THREAD)));
  const regions: MergeRegion[] = [];
  let [offset, bytes, firstTensor] = [0, headerBytes, 0];
  unit.tensors.forEach((tensor, index) => {
    bytes += tensor.bytes;
    const isLast = index === unit.tensors.length - 1;
    if (bytes < target && !isLast) return;
    regions.push({ offset, bytes, firstTensor, endTensor: index + 1 });
    offset += bytes;
    [bytes, firstTensor] = [0, index + 1];
  });
  return regions;
}
