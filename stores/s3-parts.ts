// How a large object is cut into the parts of a multipart upload: every region is a whole number of parts whose numbers
// are known beforehand, so that threads and processes upload without talking to each other.
import type { Region } from "./store.ts";

export type RegionParts = {
  /** Number of the region's first part; part numbers begin at 1. */
  readonly firstPart: number;
  readonly partCount: number;
  /** Bytes of each part but the last, which has at most as many. */
  readonly partBytes: number;
};

const MIB = 1024 * 1024;
/** Parts by size; with the regions, which may each begin one more, at most S3's 10,000. */
const PARTS_BY_SIZE = 9000;

/** max(8 MiB, ceil(bytes / 9000) rounded up to 1 MiB): the part size that an object of that size asks for. */
export function partBytesFor(bytes: number): number {
  return Math.max(8 * MIB, Math.ceil(Math.ceil(bytes / PARTS_BY_SIZE) / MIB) * MIB);
}

/**
 * The parts of each region: as many as fit whole, of equal size. A part has fewer than 5 MiB only if it is the object's
 * last, and fewer than two times `partBytesFor(bytes)` bytes; there are at most 9,000 plus one per region.
 */
export function planParts(bytes: number, regions: readonly Region[]): readonly RegionParts[] {
  const wanted = partBytesFor(bytes);
  let firstPart = 1;
  return regions.map((region) => {
    const partCount = Math.max(1, Math.floor(region.bytes / wanted));
    const parts = { firstPart, partCount, partBytes: Math.ceil(region.bytes / partCount) };
    firstPart += partCount;
    return parts;
  });
}

/** The largest object that is sure to need no part over S3's 5 GiB; the planner never makes files near it. */
export const OBJECT_BYTES_MAX = PARTS_BY_SIZE * 2560 * MIB;

/** Bytes up to which an object of one region is written by one request. */
export const SINGLE_PUT_BYTES_MAX = 8 * MIB;
