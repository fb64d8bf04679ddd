// core/ops/select.ts: magnitudes of differences as integers, counted, listed and compared, sixteen at a time with a
// scalar tail. Dtypes come as a number: 0 BF16, 1 F16, 2 F32.
import { magnitude, nanKey } from "./constants";
import { lower, one, rest, upper } from "./stored";

const NAN_KEY: i32 = 0x7fc00000;
const MAGNITUDE: i32 = 0x7fffffff;

/** The keys of a group of sixteen, where a loop wants them one by one. */
const GROUP: usize = memory.data(64);
/** Three counts of countBracket. */
const COUNTS: usize = memory.data(16);

export function selectCounts(): usize {
  return COUNTS;
}

@inline function keysOf(delta: v128): v128 {
  return i32x4.min_s(v128.and(delta, magnitude()), nanKey());
}

@inline function keyOf(delta: f32): i32 {
  const bits = reinterpret<i32>(delta) & MAGNITUDE;
  return bits < NAN_KEY ? bits : NAN_KEY;
}

@inline function lowerKeys<T>(source: v128, base: v128): v128 {
  return keysOf(f32x4.sub(lower<T>(source), lower<T>(base)));
}

@inline function upperKeys<T>(source: v128, base: v128): v128 {
  return keysOf(f32x4.sub(upper<T>(source), upper<T>(base)));
}

@inline function sumLanes(counts: v128): i32 {
  return (
    i32x4.extract_lane(counts, 0) +
    i32x4.extract_lane(counts, 1) +
    i32x4.extract_lane(counts, 2) +
    i32x4.extract_lane(counts, 3)
  );
}

/** Keys of differences, as core/ops/select.ts defines them. */
@inline function writeKeysOf<T>(source: usize, base: usize, target: usize, count: i32): void {
  const step: usize = 8 * sizeof<T>();
  const end = target + (<usize>count << 2);
  const vectorEnd = target + (<usize>(count & ~7) << 2);
  let s = source;
  let b = base;
  let t = target;
  for (; t < vectorEnd; t += 32, s += step, b += step) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    v128.store(t, lowerKeys<T>(s0, b0));
    v128.store(t, upperKeys<T>(rest<T>(s, s0), rest<T>(b, b0)), 16);
  }
  for (; t < end; t += 4, s += sizeof<T>(), b += sizeof<T>()) store<i32>(t, keyOf(one<T>(s) - one<T>(b)));
}

export function writeKeys(dtype: i32, source: usize, base: usize, target: usize, count: i32): void {
  if (dtype == 0) writeKeysOf<u16>(source, base, target, count);
  else if (dtype == 1) writeKeysOf<i16>(source, base, target, count);
  else writeKeysOf<f32>(source, base, target, count);
}

/** Appends the keys of the stored group that lie strictly between, in order; returns the list's new end. */
@inline function listGroup(list: usize, low: i32, high: i32): usize {
  for (let at: usize = 0; at < 64; at += 4) {
    const key = load<i32>(GROUP + at);
    store<i32>(list, key);
    list += <usize>(i32(key > low) & i32(key < high)) << 2;
  }
  return list;
}

@inline function countBracketOf<T>(source: usize, base: usize, count: i32, low: i32, high: i32, list: usize): usize {
  const half: usize = 8 * sizeof<T>();
  const lows = i32x4.splat(low);
  const belowLows = i32x4.splat(low - 1);
  const highs = i32x4.splat(high);
  const belowHighs = i32x4.splat(high - 1);
  let above = i32x4.splat(0);
  let fromHigh = i32x4.splat(0);
  let fromLow = i32x4.splat(0);
  let s = source;
  let b = base;
  const vectorEnd = source + <usize>(count & ~15) * sizeof<T>();
  for (; s < vectorEnd; s += 2 * half, b += 2 * half) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    const s1 = v128.load(s + half);
    const b1 = v128.load(b + half);
    const k0 = lowerKeys<T>(s0, b0);
    const k1 = upperKeys<T>(rest<T>(s, s0), rest<T>(b, b0));
    const k2 = lowerKeys<T>(s1, b1);
    const k3 = upperKeys<T>(rest<T>(s + half, s1), rest<T>(b + half, b1));
    above = i32x4.sub(above, i32x4.gt_s(k0, highs));
    above = i32x4.sub(above, i32x4.gt_s(k1, highs));
    above = i32x4.sub(above, i32x4.gt_s(k2, highs));
    above = i32x4.sub(above, i32x4.gt_s(k3, highs));
    const h0 = i32x4.gt_s(k0, belowHighs);
    const h1 = i32x4.gt_s(k1, belowHighs);
    const h2 = i32x4.gt_s(k2, belowHighs);
    const h3 = i32x4.gt_s(k3, belowHighs);
    fromHigh = i32x4.sub(i32x4.sub(i32x4.sub(i32x4.sub(fromHigh, h0), h1), h2), h3);
    fromLow = i32x4.sub(fromLow, i32x4.gt_s(k0, belowLows));
    fromLow = i32x4.sub(fromLow, i32x4.gt_s(k1, belowLows));
    fromLow = i32x4.sub(fromLow, i32x4.gt_s(k2, belowLows));
    fromLow = i32x4.sub(fromLow, i32x4.gt_s(k3, belowLows));
    const inside01 = v128.or(v128.andnot(i32x4.gt_s(k0, lows), h0), v128.andnot(i32x4.gt_s(k1, lows), h1));
    const inside23 = v128.or(v128.andnot(i32x4.gt_s(k2, lows), h2), v128.andnot(i32x4.gt_s(k3, lows), h3));
    if (v128.any_true(v128.or(inside01, inside23))) {
      v128.store(GROUP, k0);
      v128.store(GROUP, k1, 16);
      v128.store(GROUP, k2, 32);
      v128.store(GROUP, k3, 48);
      list = listGroup(list, low, high);
    }
  }
  let tailAbove = sumLanes(above);
  let tailHigh = sumLanes(fromHigh);
  let tailLow = sumLanes(fromLow);
  const end = source + <usize>count * sizeof<T>();
  for (; s < end; s += sizeof<T>(), b += sizeof<T>()) {
    const key = keyOf(one<T>(s) - one<T>(b));
    tailAbove += i32(key > high);
    tailHigh += i32(key >= high);
    tailLow += i32(key >= low);
    if (key > low && key < high) {
      store<i32>(list, key);
      list += 4;
    }
  }
  store<i32>(COUNTS, tailAbove);
  store<i32>(COUNTS, tailHigh, 4);
  store<i32>(COUNTS, tailLow, 8);
  return list;
}

/** Returns the new end of the list; it may write one key past it. The counts are at `selectCounts`. */
export function countBracket(
  dtype: i32,
  source: usize,
  base: usize,
  count: i32,
  low: i32,
  high: i32,
  list: usize,
): usize {
  if (dtype == 0) return countBracketOf<u16>(source, base, count, low, high, list);
  if (dtype == 1) return countBracketOf<i16>(source, base, count, low, high, list);
  return countBracketOf<f32>(source, base, count, low, high, list);
}

@inline function countKey(key: i32, origin: i32, shift: i32, bins: usize, binCount: u32): void {
  const bin = <u32>(key - origin) >> shift;
  if (bin >= binCount) return;
  const address = bins + (<usize>bin << 2);
  store<u32>(address, load<u32>(address) + 1);
}

@inline function countKeysOf<T>(
  source: usize,
  base: usize,
  count: i32,
  origin: i32,
  shift: i32,
  bins: usize,
  binCount: u32,
): void {
  const half: usize = 8 * sizeof<T>();
  let s = source;
  let b = base;
  const vectorEnd = source + <usize>(count & ~7) * sizeof<T>();
  for (; s < vectorEnd; s += half, b += half) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    v128.store(GROUP, lowerKeys<T>(s0, b0));
    v128.store(GROUP, upperKeys<T>(rest<T>(s, s0), rest<T>(b, b0)), 16);
    for (let at: usize = 0; at < 32; at += 4) countKey(load<i32>(GROUP + at), origin, shift, bins, binCount);
  }
  const end = source + <usize>count * sizeof<T>();
  for (; s < end; s += sizeof<T>(), b += sizeof<T>()) {
    countKey(keyOf(one<T>(s) - one<T>(b)), origin, shift, bins, binCount);
  }
}

export function countKeys(
  dtype: i32,
  source: usize,
  base: usize,
  count: i32,
  origin: i32,
  shift: i32,
  bins: usize,
  binCount: u32,
): void {
  if (dtype == 0) countKeysOf<u16>(source, base, count, origin, shift, bins, binCount);
  else if (dtype == 1) countKeysOf<i16>(source, base, count, origin, shift, bins, binCount);
  else countKeysOf<f32>(source, base, count, origin, shift, bins, binCount);
}

@inline function countEqualOf<T>(source: usize, base: usize, count: i32, key: i32): i32 {
  const half: usize = 8 * sizeof<T>();
  const wanted = i32x4.splat(key);
  let found0 = i32x4.splat(0);
  let found1 = i32x4.splat(0);
  let s = source;
  let b = base;
  const vectorEnd = source + <usize>(count & ~7) * sizeof<T>();
  for (; s < vectorEnd; s += half, b += half) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    found0 = i32x4.sub(found0, i32x4.eq(lowerKeys<T>(s0, b0), wanted));
    found1 = i32x4.sub(found1, i32x4.eq(upperKeys<T>(rest<T>(s, s0), rest<T>(b, b0)), wanted));
  }
  let found = sumLanes(i32x4.add(found0, found1));
  const end = source + <usize>count * sizeof<T>();
  for (; s < end; s += sizeof<T>(), b += sizeof<T>()) found += i32(keyOf(one<T>(s) - one<T>(b)) == key);
  return found;
}

export function countEqual(dtype: i32, source: usize, base: usize, count: i32, key: i32): i32 {
  if (dtype == 0) return countEqualOf<u16>(source, base, count, key);
  if (dtype == 1) return countEqualOf<i16>(source, base, count, key);
  return countEqualOf<f32>(source, base, count, key);
}

@inline function between(keys: v128, belowLows: v128, highs: v128): v128 {
  return v128.andnot(i32x4.gt_s(keys, belowLows), i32x4.gt_s(keys, highs));
}

@inline function markKeysOf<T>(source: usize, base: usize, count: i32, low: i32, high: i32, bits: usize): void {
  const half: usize = 8 * sizeof<T>();
  const belowLows = i32x4.splat(low - 1);
  const highs = i32x4.splat(high);
  let s = source;
  let b = base;
  let target = bits;
  const vectorEnd = source + <usize>(count & ~15) * sizeof<T>();
  for (; s < vectorEnd; s += 2 * half, b += 2 * half, target += 2) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    const s1 = v128.load(s + half);
    const b1 = v128.load(b + half);
    const m0 = between(lowerKeys<T>(s0, b0), belowLows, highs);
    const m1 = between(upperKeys<T>(rest<T>(s, s0), rest<T>(b, b0)), belowLows, highs);
    const m2 = between(lowerKeys<T>(s1, b1), belowLows, highs);
    const m3 = between(upperKeys<T>(rest<T>(s + half, s1), rest<T>(b + half, b1)), belowLows, highs);
    const marks = i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(m0, m1), i16x8.narrow_i32x4_s(m2, m3));
    store<u16>(target, <u16>i8x16.bitmask(marks));
  }
  if ((count & 15) == 0) return;
  let last: u32 = 0;
  let bit = 0;
  const end = source + <usize>count * sizeof<T>();
  for (; s < end; s += sizeof<T>(), b += sizeof<T>(), bit++) {
    const key = keyOf(one<T>(s) - one<T>(b));
    last |= u32(key >= low && key <= high) << bit;
  }
  store<u16>(target, <u16>last);
}

export function markKeys(
  dtype: i32,
  source: usize,
  base: usize,
  count: i32,
  low: i32,
  high: i32,
  bits: usize,
): void {
  if (dtype == 0) markKeysOf<u16>(source, base, count, low, high, bits);
  else if (dtype == 1) markKeysOf<i16>(source, base, count, low, high, bits);
  else markKeysOf<f32>(source, base, count, low, high, bits);
}
