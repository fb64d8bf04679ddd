// Small number formats that blocks are made of: F16 scales, and rounding to integers as the reference rounds.
const scratch = new DataView(new ArrayBuffer(4));

/** Writes float16(value) (nearest, ties to even, NaN as 7e00) and returns its value as it will be read back. */
export function writeHalf(target: Uint8Array, offset: number, value: number): number {
  if (Number.isNaN(value)) scratch.setUint16(0, 0x7e00, true);
  else scratch.setFloat16(0, value, true);
  target[offset] = scratch.getUint8(0);
  target[offset + 1] = scratch.getUint8(1);
  return scratch.getFloat16(0, true);
}

/** The float16 at an offset. */
export function readHalf(source: Uint8Array, offset: number): number {
  scratch.setUint8(0, source[offset] ?? 0);
  scratch.setUint8(1, source[offset + 1] ?? 0);
  return scratch.getFloat16(0, true);
}

/** 1.5 * 2^23: adding it to a float32 below 2^22 leaves the nearest integer in the low bits of its mantissa. */
const MAGIC = 12582912;

/**
 * Nearest integer, ties to even, through the mantissa's low bits; |value| < 2^22. Beyond that, infinities included, it
 * gives what the bits say, as the reference does.
 */
export function nearest(value: number): number {
  const sum = Math.fround(value + MAGIC);
  return sum >= 8388608 && sum < 16777216 ? sum - MAGIC : nearestBeyond(sum);
}

/** What the mantissa says of a sum outside [2^23, 2^24). */
function nearestBeyond(sum: number): number {
  scratch.setFloat32(0, sum, true);
  return (scratch.getUint32(0, true) & 0x007fffff) - 0x00400000;
}

/** Nearest integer within [low, high]. */
export function nearestWithin(value: number, low: number, high: number): number {
  const rounded = nearest(value);
  return Math.min(Math.max(rounded, low), high);
}

/** Nearest integer, halves away from zero; exact for every float32. */
export function roundHalfAway(value: number): number {
  return value < 0 ? -Math.floor(-value + 0.5) : Math.floor(value + 0.5);
}
