// How large the regions are that threads write a file in: the same for merged, converted and quantized files. It never
// changes a byte.

/**
 * Smallest region but the last: a store may need parts of at least 5 MiB (S3), and threads want work worth a message.
 */
export const REGION_BYTES_MIN = 8 * 2 ** 20;
/** Enough regions that threads end together, and fewer than a store takes. */
const REGIONS_PER_THREAD = 8;
const REGIONS_MAX = 900;

/** Bytes after which a region of a file of `fileBytes` is large enough. */
export function regionBytes(fileBytes: number, threads: number): number {
  return Math.max(REGION_BYTES_MIN, Math.ceil(fileBytes / Math.min(REGIONS_MAX, threads * REGIONS_PER_THREAD)));
}
