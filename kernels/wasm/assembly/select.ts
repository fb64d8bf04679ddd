// core/ops/select.ts: magnitudes of differences as integers, counted, listed and compared, sixteen at a time with a
// scalar tail. Dtypes come as a number: 0 BF16, 1 F16, 2 F32.
import { magnitude, nanKey } from "./constants";
import { lower, one, rest, upper } from "./stored";

const NAN_KEY: i32 = 0x7fc00000;
const MAGNITUDE: i32 = 0x7fffffff;

/** The keys of a group of sixteen, where a loop wants them one by one. */
const GROUP: usize = memory.data(64);
/** Three counts of countBracket: keys above the bracket, equal to its upper end, and in it, both ends included. */
const ABOVE: usize = memory.data(12);
const AT_HIGH: usize = ABOVE + 4;
const HELD: usize = ABOVE + 8;

export function selectCounts(): usize {
  return ABOVE;
}

@inline function keyOf(delta: f32): i32 {
  const bits = reinterpret<i32>(delta) & MAGNITUDE;
  return bits < NAN_KEY ? bits : NAN_KEY;
}

@inline function lowerMagnitudes<T>(source: v128, base: v128): v128 {
  return v128.and(f32x4.sub(lower<T>(source), lower<T>(base)), magnitude());
}

@inline function upperMagnitudes<T>(source: v128, base: v128): v128 {
  return v128.and(f32x4.sub(upper<T>(source), upper<T>(base)), magnitude());
}

@inline function lowerKeys<T>(source: v128, base: v128): v128 {
  return i32x4.min_s(lowerMagnitudes<T>(source, base), nanKey());
}

@inline function upperKeys<T>(source: v128, base: v128): v128 {
  return i32x4.min_s(upperMagnitudes<T>(source, base), nanKey());
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

/** How many of sixteen are larger, in four sums, negative. */
@inline function countAbove(m0: v128, m1: v128, m2: v128, m3: v128, bound: v128): v128 {
  const first = i32x4.add(i32x4.gt_s(m0, bound), i32x4.gt_s(m1, bound));
  return i32x4.add(first, i32x4.add(i32x4.gt_s(m2, bound), i32x4.gt_s(m3, bound)));
}

@inline function addCount(address: usize, count: i32): void {
  store<i32>(address, load<i32>(address) + count);
}

/** Appends the keys of a group that lie strictly between, in order; returns the list's new end. */
function listGroup<T>(source: usize, base: usize, low: i32, high: i32, list: usize): usize {
  for (let i: usize = 0; i < 16; i++) {
    const key = keyOf(one<T>(source + i * sizeof<T>()) - one<T>(base + i * sizeof<T>()));
    store<i32>(list, key);
    list += <usize>(i32(key > low) & i32(key < high)) << 2;
  }
  return list;
}

/** One tile; returns the list's new end. */
@inline function countTile<T>(source: usize, base: usize, count: i32, low: i32, high: i32, list: usize): usize {
  const half: usize = 8 * sizeof<T>();
  const lows = i32x4.splat(low);
  const belowLows = i32x4.splat(low - 1);
  // Magnitudes of NaN are no single number: of keys, none is above the largest.
  const highs = i32x4.splat(high < NAN_KEY ? high : MAGNITUDE);
  const belowHighs = i32x4.splat(high <= NAN_KEY ? high - 1 : MAGNITUDE);
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
    const m0 = lowerMagnitudes<T>(s0, b0);
    const m1 = upperMagnitudes<T>(rest<T>(s, s0), rest<T>(b, b0));
    const m2 = lowerMagnitudes<T>(s1, b1);
    const m3 = upperMagnitudes<T>(rest<T>(s + half, s1), rest<T>(b + half, b1));
    above = i32x4.sub(above, countAbove(m0, m1, m2, m3, highs));
    fromLow = i32x4.sub(fromLow, countAbove(m0, m1, m2, m3, belowLows));
    const groupFromHigh = countAbove(m0, m1, m2, m3, belowHighs);
    fromHigh = i32x4.sub(fromHigh, groupFromHigh);
    // Counts are negative. Where both ends are one key, fewer are above it than from it on, and none is inside.
    const inside = i32x4.gt_s(groupFromHigh, countAbove(m0, m1, m2, m3, lows));
    if (v128.any_true(inside)) list = listGroup<T>(s, b, low, high, list);
  }
  let tailAbove = sumLanes(above);
  let tailHigh = sumLanes(fromHigh) - tailAbove;
  let tailHeld = sumLanes(fromLow) - tailAbove;
  const end = source + <usize>count * sizeof<T>();
  for (; s < end; s += sizeof<T>(), b += sizeof<T>()) {
    const key = keyOf(one<T>(s) - one<T>(b));
    tailAbove += i32(key > high);
    tailHeld += i32(key >= low && key <= high);
    tailHigh += i32(key == high);
    store<i32>(list, key);
    list += <usize>(i32(key > low) & i32(key < high)) << 2;
  }
  addCount(ABOVE, tailAbove);
  addCount(AT_HIGH, tailHigh);
  addCount(HELD, tailHeld);
  return list;
}

@inline function countBracketOf<T>(
  source: usize,
  base: usize,
  count: i32,
  low: i32,
  high: i32,
  list: usize,
  listEnd: usize,
  tally: usize,
  tileElements: i32,
): usize {
  memory.fill(ABOVE, 0, 12);
  for (let tile = 0; tile < count; tile += tileElements, tally += 12) {
    const end = min(tile + tileElements, count);
    if (list + (<usize>(end - tile) << 2) > listEnd) return 0;
    const listed = list;
    const atHigh = load<i32>(AT_HIGH);
    const held = load<i32>(HELD);
    const offset = <usize>tile * sizeof<T>();
    list = countTile<T>(source + offset, base + offset, end - tile, low, high, list);
    store<i32>(tally, load<i32>(AT_HIGH) - atHigh);
    store<i32>(tally, <i32>((list - listed) >> 2), 4);
    store<i32>(tally, load<i32>(HELD) - held, 8);
  }
  return list;
}

/** Returns the list's new end, 0 where it has no room. The counts of all tiles are at `selectCounts`. */
export function countBracket(
  dtype: i32,
  source: usize,
  base: usize,
  count: i32,
  low: i32,
  high: i32,
  list: usize,
  listEnd: usize,
  tally: usize,
  tileElements: i32,
): usize {
  if (dtype == 0) return countBracketOf<u16>(source, base, count, low, high, list, listEnd, tally, tileElements);
  if (dtype == 1) return countBracketOf<i16>(source, base, count, low, high, list, listEnd, tally, tileElements);
  return countBracketOf<f32>(source, base, count, low, high, list, listEnd, tally, tileElements);
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
