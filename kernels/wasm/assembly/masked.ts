// core/ops/masked.ts: task vectors under masks, combined, sixteen elements at a time.
import { KeyBand, loadFirst, MaskBits, TABLE, weigh } from "./masked-sources";
import { addMagnitudes, areFinite, CHUNK, finish, narrowAgain, storeGroup, WIDE } from "./narrow-group";
import { lower, rest, upper } from "./stored";

/**
 * Elements from byte `offset` of every source on. `narrows`: results are stored as the sources are, and what is returned
 * says whether they were right to be; else they are float32.
 */
@inline function combineOf<T, How>(
  b: usize,
  n: i32,
  divisor: f32,
  multiplier: f32,
  offset: usize,
  target: usize,
  count: i32,
  narrows: bool,
): bool {
  const half: usize = 8 * sizeof<T>();
  const tableEnd = TABLE + (<usize>n << 4);
  const divides = divisor != 1;
  const divisors = f32x4.splat(divisor);
  const multiplies = multiplier != 1;
  const multipliers = f32x4.splat(multiplier);
  const step: usize = narrows ? 2 * half : 64;
  let bitOffset = offset / half;
  let magnitudes = f32x4.splat(0);
  const end = offset + <usize>((count + 15) >> 4) * 2 * half;
  for (let t = target; offset < end; t += step, offset += 2 * half, bitOffset += 2) {
    const b0 = v128.load(b + offset);
    const b1 = v128.load(b + offset + half);
    const base0 = lower<T>(b0);
    const base1 = upper<T>(rest<T>(b + offset, b0));
    const base2 = lower<T>(b1);
    const base3 = upper<T>(rest<T>(b + offset + half, b1));
    let sum0 = f32x4.splat(0);
    let sum1 = f32x4.splat(0);
    let sum2 = f32x4.splat(0);
    let sum3 = f32x4.splat(0);
    for (let entry = TABLE; entry < tableEnd; entry += 16) {
      const source = <usize>load<u32>(entry) + offset;
      const first = loadFirst<How>(entry, bitOffset);
      const second = v128.load32_splat(entry, 8);
      const weight = v128.load32_splat(entry, 12);
      const s0 = v128.load(source);
      const s1 = v128.load(source + half);
      const d0 = f32x4.sub(lower<T>(s0), base0);
      const d1 = f32x4.sub(upper<T>(rest<T>(source, s0)), base1);
      const d2 = f32x4.sub(lower<T>(s1), base2);
      const d3 = f32x4.sub(upper<T>(rest<T>(source + half, s1)), base3);
      sum0 = f32x4.add(sum0, weigh<How>(d0, 0, first, second, weight));
      sum1 = f32x4.add(sum1, weigh<How>(d1, 1, first, second, weight));
      sum2 = f32x4.add(sum2, weigh<How>(d2, 2, first, second, weight));
      sum3 = f32x4.add(sum3, weigh<How>(d3, 3, first, second, weight));
    }
    sum0 = finish(sum0, base0, true, divides, divisors, multiplies, multipliers);
    sum1 = finish(sum1, base1, true, divides, divisors, multiplies, multipliers);
    sum2 = finish(sum2, base2, true, divides, divisors, multiplies, multipliers);
    sum3 = finish(sum3, base3, true, divides, divisors, multiplies, multipliers);
    if (narrows) {
      magnitudes = addMagnitudes(magnitudes, sum0, sum1, sum2, sum3);
      storeGroup<T>(t, sum0, sum1, sum2, sum3);
    } else storeGroup<f32>(t, sum0, sum1, sum2, sum3);
  }
  return !narrows || areFinite<T>(magnitudes);
}

@inline function combineBy<How>(
  dtype: i32,
  base: usize,
  n: i32,
  divisor: f32,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  if (dtype == 0) combineOf<u16, How>(base, n, divisor, multiplier, 0, target, count, false);
  else if (dtype == 1) combineOf<i16, How>(base, n, divisor, multiplier, 0, target, count, false);
  else combineOf<f32, How>(base, n, divisor, multiplier, 0, target, count, false);
}

/** Without election; the divisor is one number. */
export function combineMasked(
  dtype: i32,
  base: usize,
  n: i32,
  divisor: f32,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  combineBy<MaskBits>(dtype, base, n, divisor, multiplier, target, count);
}

@inline function combineStoredOf<T>(b: usize, n: i32, divisor: f32, multiplier: f32, target: usize, count: i32): i32 {
  let nonFinite = 0;
  for (let done = 0; done < count; done += CHUNK) {
    const offset = <usize>done * sizeof<T>();
    const now = min(CHUNK, count - done);
    if (combineOf<T, MaskBits>(b, n, divisor, multiplier, offset, target + offset, now, true)) continue;
    combineOf<T, MaskBits>(b, n, divisor, multiplier, offset, WIDE, now, false);
    nonFinite += narrowAgain<T>(target + offset, now);
  }
  return nonFinite;
}

/** combineMasked, narrowed; returns how many of the `count` values are not finite. */
export function combineMaskedStored(
  dtype: i32,
  base: usize,
  n: i32,
  divisor: f32,
  multiplier: f32,
  target: usize,
  count: i32,
): i32 {
  if (dtype == 0) return combineStoredOf<u16>(base, n, divisor, multiplier, target, count);
  if (dtype == 1) return combineStoredOf<i16>(base, n, divisor, multiplier, target, count);
  return combineStoredOf<f32>(base, n, divisor, multiplier, target, count);
}

/** Without election, kept by keys. */
export function combineBanded(
  dtype: i32,
  base: usize,
  n: i32,
  divisor: f32,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  combineBy<KeyBand>(dtype, base, n, divisor, multiplier, target, count);
}
