// core/schemes/nf4.ts: codes into a table of sixteen under the largest magnitude of a block. Counts are whole blocks, and
// blocks multiples of sixteen.
import { largestMagnitude } from "./quant-integers";

/** Limits between the fifteen pairs of neighbours of the table in use, a vector each. */
const MIDPOINTS: usize = memory.data(240, 16);
/** Its bytes: first those of every entry, then the second ones, and so on. */
const PLANES: usize = memory.data(64, 16);
const ZERO_CODE: i8 = 7;

/** How many limits are below four values, negated. */
@inline function passed(x: v128): v128 {
  let count = f32x4.gt(x, v128.load(MIDPOINTS));
  for (let i: usize = 16; i < 240; i += 16) count = i32x4.add(count, f32x4.gt(x, v128.load(MIDPOINTS + i)));
  return count;
}

@inline function codes16(s: usize, inverse: v128): v128 {
  const a = passed(f32x4.mul(v128.load(s), inverse));
  const b = passed(f32x4.mul(v128.load(s, 16), inverse));
  const c = passed(f32x4.mul(v128.load(s, 32), inverse));
  const d = passed(f32x4.mul(v128.load(s, 48), inverse));
  return i8x16.neg(i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d)));
}

/** Two codes a byte, the first in the high half; a scale of float32 for each block. `table` has sixteen float32. */
export function quantizeTable4(
  source: usize,
  count: i32,
  block: i32,
  table: usize,
  target: usize,
  scales: usize,
): void {
  for (let i: usize = 0; i < 15; i++) {
    const middle = (load<f32>(table + (i << 2)) + load<f32>(table + (i << 2), 4)) / 2;
    v128.store(MIDPOINTS + (i << 4), f32x4.splat(middle));
  }
  const end = source + (<usize>count << 2);
  let s = source;
  let t = target;
  for (let to = scales; s < end; to += 4) {
    const largest = largestMagnitude(s, block, 1, 0);
    store<f32>(to, largest);
    const inverse = f32x4.splat(1 / largest);
    const blockEnd = s + (<usize>block << 2);
    for (; s < blockEnd; s += 64, t += 8) {
      const codes = largest == 0 ? i8x16.splat(ZERO_CODE) : codes16(s, inverse);
      const pairs = v128.or(i16x8.shl(codes, 4), i16x8.shr_u(codes, 8));
      const bytes = v128.and(pairs, i16x8.splat(255));
      v128.store64_lane(t, i8x16.narrow_i16x8_u(bytes, bytes), 0);
    }
  }
}

/** The values again. */
export function dequantizeTable4(
  source: usize,
  count: i32,
  block: i32,
  table: usize,
  scales: usize,
  target: usize,
): void {
  for (let i: usize = 0; i < 16; i++) {
    for (let byte: usize = 0; byte < 4; byte++) store<u8>(PLANES + (byte << 4) + i, load<u8>(table + (i << 2) + byte));
  }
  const first = v128.load(PLANES);
  const second = v128.load(PLANES, 16);
  const third = v128.load(PLANES, 32);
  const fourth = v128.load(PLANES, 48);
  const end = target + (<usize>count << 2);
  let s = source;
  let t = target;
  for (let from = scales; t < end; from += 4) {
    const scale = v128.load_splat<u32>(from);
    const blockEnd = t + (<usize>block << 2);
    for (; t < blockEnd; t += 64, s += 8) {
      const bytes = v128.load64_zero(s);
      const low = v128.and(bytes, i8x16.splat(15));
      const high = i8x16.shr_u(bytes, 4);
      const codes = v128.shuffle<u8>(high, low, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      const a = i8x16.swizzle(first, codes);
      const b = i8x16.swizzle(second, codes);
      const c = i8x16.swizzle(third, codes);
      const d = i8x16.swizzle(fourth, codes);
      const lower = v128.shuffle<u8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      const lowerHigh = v128.shuffle<u8>(c, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      const upper = v128.shuffle<u8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      const upperHigh = v128.shuffle<u8>(c, d, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      v128.store(t, f32x4.mul(v128.shuffle<u16>(lower, lowerHigh, 0, 8, 1, 9, 2, 10, 3, 11), scale));
      v128.store(t, f32x4.mul(v128.shuffle<u16>(lower, lowerHigh, 4, 12, 5, 13, 6, 14, 7, 15), scale), 16);
      v128.store(t, f32x4.mul(v128.shuffle<u16>(upper, upperHigh, 0, 8, 1, 9, 2, 10, 3, 11), scale), 32);
      v128.store(t, f32x4.mul(v128.shuffle<u16>(upper, upperHigh, 4, 12, 5, 13, 6, 14, 7, 15), scale), 48);
    }
  }
}
