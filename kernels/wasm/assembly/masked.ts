// core/ops/masked.ts: task vectors under masks, combined with or without election, sixteen elements at a time.
import { baseAddress, divisor, multiplier, sourceCount } from "./combination";
import { bf16Half, floatZero, integerOne, upperHalves } from "./constants";
import { elect, electPair, GROUP } from "./masked-election";
import {
  fillPairScales,
  KeyBand,
  LeastKey,
  loadFirst,
  MaskBits,
  pairScales,
  TABLE,
  weigh,
} from "./masked-sources";
import {
  addLargest,
  addMagnitudes,
  areFinite,
  CHUNK,
  finish,
  isLargestFinite,
  joinBF16,
  narrowAgain,
  storeGroup,
  WIDE,
} from "./narrow-group";
import { even, isBF16, lower, odd, rest, upper } from "./stored";

/**
 * Elements from byte `offset` of every source on. `elects`: values of the majority's sign are added, and divided by
 * their weights unless the divisor is 0. `narrows`: results are stored as the sources are, and what is returned says
 * whether they were right to be; else they are float32.
 */
@inline function combineOf<T, How>(offset: usize, target: usize, count: i32, elects: bool, narrows: bool): bool {
  const half: usize = 8 * sizeof<T>();
  const b = baseAddress();
  const tableEnd = TABLE + (sourceCount() << 4);
  const dividesElected = divisor() != 0;
  const divides = !elects && divisor() != 1;
  const divisors = f32x4.splat(divisor());
  const multiplies = multiplier() != 1;
  const multipliers = f32x4.splat(multiplier());
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
    let stored = GROUP;
    for (let entry = TABLE; entry < tableEnd; entry += 16, stored += 64) {
      const source = <usize>load<u32>(entry) + offset;
      const first = loadFirst<How>(entry, bitOffset);
      const second = v128.load32_splat(entry, 8);
      const weight = v128.load32_splat(entry, 12);
      const s0 = v128.load(source);
      const s1 = v128.load(source + half);
      const v0 = weigh<How>(f32x4.sub(lower<T>(s0), base0), 0, first, second, weight);
      const v1 = weigh<How>(f32x4.sub(upper<T>(rest<T>(source, s0)), base1), 1, first, second, weight);
      const v2 = weigh<How>(f32x4.sub(lower<T>(s1), base2), 2, first, second, weight);
      const v3 = weigh<How>(f32x4.sub(upper<T>(rest<T>(source + half, s1)), base3), 3, first, second, weight);
      if (elects) storeGroup<f32>(stored, v0, v1, v2, v3);
      sum0 = f32x4.add(sum0, v0);
      sum1 = f32x4.add(sum1, v1);
      sum2 = f32x4.add(sum2, v2);
      sum3 = f32x4.add(sum3, v3);
    }
    if (elects) {
      sum0 = elect(0, sum0, tableEnd, dividesElected);
      sum1 = elect(16, sum1, tableEnd, dividesElected);
      sum2 = elect(32, sum2, tableEnd, dividesElected);
      sum3 = elect(48, sum3, tableEnd, dividesElected);
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

/** A quarter of a group of two sources: what is elected of their differences, added to the base. */
@inline function electQuarter<How>(
  base: v128,
  v: v128,
  w: v128,
  quarter: usize,
  bitOffset: usize,
  divides: bool,
  multiplies: bool,
  multipliers: v128,
): v128 {
  const weightV = v128.load32_splat(TABLE, 12);
  const weightW = v128.load32_splat(TABLE, 28);
  const firstV = loadFirst<How>(TABLE, bitOffset);
  const firstW = loadFirst<How>(TABLE + 16, bitOffset);
  const valueV = weigh<How>(f32x4.sub(v, base), quarter, firstV, v128.load32_splat(TABLE, 8), weightV);
  const valueW = weigh<How>(f32x4.sub(w, base), quarter, firstW, v128.load32_splat(TABLE, 24), weightW);
  const sum = electPair(valueV, valueW, weightV, weightW, divides);
  return finish(sum, base, true, false, sum, multiplies, multipliers);
}

/** combineOf with election, narrowing, for two sources of BF16: the usual case. */
@inline function electPairOf<How>(offset: usize, target: usize, count: i32): bool {
  const b = baseAddress();
  const v = <usize>load<u32>(TABLE);
  const w = <usize>load<u32>(TABLE, 16);
  const divides = divisor() != 0;
  const multiplies = multiplier() != 1;
  const by = f32x4.splat(multiplier());
  let at = offset >> 4;
  let magnitudes = f32x4.splat(0);
  const end = offset + (<usize>((count + 15) >> 4) << 5);
  for (let t = target; offset < end; t += 32, offset += 32, at += 2) {
    const b0 = v128.load(b + offset);
    const b1 = v128.load(b + offset, 16);
    const v0 = v128.load(v + offset);
    const v1 = v128.load(v + offset, 16);
    const w0 = v128.load(w + offset);
    const w1 = v128.load(w + offset, 16);
    const sum0 = electQuarter<How>(lower<u16>(b0), lower<u16>(v0), lower<u16>(w0), 0, at, divides, multiplies, by);
    const sum1 = electQuarter<How>(upper<u16>(b0), upper<u16>(v0), upper<u16>(w0), 1, at, divides, multiplies, by);
    const sum2 = electQuarter<How>(lower<u16>(b1), lower<u16>(v1), lower<u16>(w1), 2, at, divides, multiplies, by);
    const sum3 = electQuarter<How>(upper<u16>(b1), upper<u16>(v1), upper<u16>(w1), 3, at, divides, multiplies, by);
    magnitudes = addMagnitudes(magnitudes, sum0, sum1, sum2, sum3);
    storeGroup<u16>(t, sum0, sum1, sum2, sum3);
  }
  return areFinite<u16>(magnitudes);
}

/** Every other value of eight of two sources: their differences, scaled and weighted, added to the base. */
@inline function addPair(
  base: v128,
  v: v128,
  w: v128,
  scaleV: v128,
  scaleW: v128,
  weightV: v128,
  weightW: v128,
  zero: v128,
  multipliers: v128,
): v128 {
  const first = f32x4.add(zero, f32x4.mul(f32x4.mul(f32x4.sub(v, base), scaleV), weightV));
  const sum = f32x4.add(first, f32x4.mul(f32x4.mul(f32x4.sub(w, base), scaleW), weightW));
  return f32x4.add(base, f32x4.mul(sum, multipliers));
}

/**
 * combineOf by marks, narrowing, without election, for two sources of BF16 and no divisor: the usual case. Needs the
 * scales of `fillPairScales`.
 */
@inline function addPairOf(offset: usize, target: usize, count: i32): bool {
  const b = baseAddress();
  const v = <usize>load<u32>(TABLE);
  const w = <usize>load<u32>(TABLE, 16);
  const weightV = v128.load32_splat(TABLE, 12);
  const weightW = v128.load32_splat(TABLE, 28);
  const bitsV = <usize>load<u32>(TABLE, 4);
  const bitsW = <usize>load<u32>(TABLE, 20);
  const by = f32x4.splat(multiplier());
  const zero = floatZero();
  const uppers = upperHalves();
  const half = bf16Half();
  const one = integerOne();
  let largest = i16x8.splat(0);
  const end = offset + (<usize>((count + 15) >> 4) << 5);
  for (let t = target; offset < end; offset += 32, t += 32) {
    for (let at: usize = 0; at < 32; at += 16) {
      const bs = v128.load(b + offset + at);
      const vs = v128.load(v + offset + at);
      const ws = v128.load(w + offset + at);
      const sv = pairScales(0, bitsV + ((offset + at) >> 4));
      const sw = pairScales(1, bitsW + ((offset + at) >> 4));
      const bo = odd(bs, uppers);
      const vo = odd(vs, uppers);
      const wo = odd(ws, uppers);
      const evens = addPair(even(bs), even(vs), even(ws), v128.load(sv), v128.load(sw), weightV, weightW, zero, by);
      const odds = addPair(bo, vo, wo, v128.load(sv, 16), v128.load(sw, 16), weightV, weightW, zero, by);
      const eight = joinBF16(evens, odds, half, one);
      v128.store(t + at, eight);
      largest = addLargest(largest, eight);
    }
  }
  return isLargestFinite(largest);
}

/** Results in float32. */
function combineWide<T, How>(elects: bool, offset: usize, target: usize, count: i32): void {
  if (elects) combineOf<T, How>(offset, target, count, true, false);
  else combineOf<T, How>(offset, target, count, false, false);
}

@inline function combineBy<How>(dtype: i32, elects: bool, target: usize, count: i32): void {
  if (dtype == 0) combineWide<u16, How>(elects, 0, target, count);
  else if (dtype == 1) combineWide<i16, How>(elects, 0, target, count);
  else combineWide<f32, How>(elects, 0, target, count);
}

/** Whether the sources go by `addPairOf`. */
@inline function arePairAdded<T, How>(elects: bool): bool {
  if (sizeof<How>() != sizeof<MaskBits>() || !isBF16<T>()) return false;
  return !elects && sourceCount() == 2 && divisor() == 1;
}

@inline function narrowChunk<T, How>(elects: bool, offset: usize, target: usize, count: i32): bool {
  if (arePairAdded<T, How>(elects)) return addPairOf(offset, target, count);
  if (!elects) return combineOf<T, How>(offset, target, count, false, true);
  if (isBF16<T>() && sourceCount() == 2) return electPairOf<How>(offset, target, count);
  return combineOf<T, How>(offset, target, count, true, true);
}

/** `Again`: a way to keep that says the same, for chunks that are combined once more. */
@inline function combineStoredOf<T, How, Again>(elects: bool, target: usize, count: i32): i32 {
  if (arePairAdded<T, How>(elects)) fillPairScales();
  let nonFinite = 0;
  for (let done = 0; done < count; done += CHUNK) {
    const offset = <usize>done * sizeof<T>();
    const now = min(CHUNK, count - done);
    if (narrowChunk<T, How>(elects, offset, target + offset, now)) continue;
    combineWide<T, Again>(elects, offset, WIDE, now);
    nonFinite += narrowAgain<T>(target + offset, now);
  }
  return nonFinite;
}

@inline function combineStoredBy<How, Again>(dtype: i32, elects: bool, target: usize, count: i32): i32 {
  if (dtype == 0) return combineStoredOf<u16, How, Again>(elects, target, count);
  if (dtype == 1) return combineStoredOf<i16, How, Again>(elects, target, count);
  return combineStoredOf<f32, How, Again>(elects, target, count);
}

/** Kept by marks. */
export function combineMasked(dtype: i32, elects: bool, target: usize, count: i32): void {
  combineBy<MaskBits>(dtype, elects, target, count);
}

/** Kept by keys. */
export function combineBanded(dtype: i32, elects: bool, target: usize, count: i32): void {
  combineBy<KeyBand>(dtype, elects, target, count);
}

/** combineMasked, narrowed; returns how many of the `count` values are not finite. */
export function combineMaskedStored(dtype: i32, elects: bool, target: usize, count: i32): i32 {
  return combineStoredBy<MaskBits, MaskBits>(dtype, elects, target, count);
}

/** combineBanded, narrowed. */
export function combineBandedStored(dtype: i32, elects: bool, target: usize, count: i32): i32 {
  return combineStoredBy<KeyBand, KeyBand>(dtype, elects, target, count);
}

/** combineBandedStored where no key is too large. */
export function combineLargestStored(dtype: i32, elects: bool, target: usize, count: i32): i32 {
  return combineStoredBy<LeastKey, KeyBand>(dtype, elects, target, count);
}
