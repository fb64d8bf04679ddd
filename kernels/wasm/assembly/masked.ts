// core/ops/masked.ts: task vectors under masks, summed, combined and elected, sixteen elements at a time. Sources come
// in a table that the host fills, 16 bytes each: address (u32); address of the mask bits (u32) and scale (f32), or least
// and largest key (i32); weight (f32).
import { floatOne, magnitude, sign } from "./constants";
import { addMagnitudes as addGroup, areFinite, CHUNK, finish, narrowAgain, storeGroup, WIDE } from "./narrow-group";
import { lower, one, rest, upper } from "./stored";

/** Room for MASKED_SOURCES_MAX entries. */
const TABLE: usize = memory.data(1024);
/** Weighted differences of one group of sixteen, 64 bytes a source. */
const GROUP: usize = memory.data(4096);
/** What addMagnitudes adds to: two float64. */
const SUMS: usize = memory.data(16);
/** The last, incomplete run of 32 magnitudes, and its mask. */
const TAIL: usize = memory.data(128);

export function maskedTable(): usize {
  return TABLE;
}

export function maskedSums(): usize {
  return SUMS;
}

/**
 * Bit k of lane k mod 4, a vector for every four bits. In memory, because a vector constant in a loop is put together
 * anew in every round.
 */
const LANES: usize = memory.data<u32>([
  0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000, 0x10000,
  0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000, 0x800000, 0x1000000, 0x2000000, 0x4000000, 0x8000000,
  0x10000000, 0x20000000, 0x40000000, 0x80000000,
]);

/** All ones in the lanes whose bit is set: bits 4q to 4q+3 of the splatted word. */
@inline function laneMask(bits: v128, quarter: usize): v128 {
  const lanes = v128.load(LANES + 16 * quarter);
  return i32x4.eq(v128.and(bits, lanes), lanes);
}

@inline function lowerDelta<T>(source: v128, base: v128): v128 {
  return f32x4.sub(lower<T>(source), lower<T>(base));
}

@inline function upperDelta<T>(source: v128, base: v128): v128 {
  return f32x4.sub(upper<T>(source), upper<T>(base));
}

@inline function promoteHigh(values: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<u32>(values, values, 2, 3, 2, 3));
}

@inline function tree(
  m0: v128,
  m1: v128,
  m2: v128,
  m3: v128,
  m4: v128,
  m5: v128,
  m6: v128,
  m7: v128,
): v128 {
  const first = f32x4.add(f32x4.add(m0, m1), f32x4.add(m2, m3));
  return f32x4.add(first, f32x4.add(f32x4.add(m4, m5), f32x4.add(m6, m7)));
}

@inline function addTile<T>(source: usize, base: usize, bits: usize, count: i32): void {
  const half: usize = 8 * sizeof<T>();
  let all01 = f64x2.splat(0);
  let all23 = f64x2.splat(0);
  let kept01 = f64x2.splat(0);
  let kept23 = f64x2.splat(0);
  let s = source;
  let b = base;
  const vectorEnd = source + <usize>(count & ~31) * sizeof<T>();
  for (; s < vectorEnd; s += 4 * half, b += 4 * half, bits += 4) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    const s1 = v128.load(s + half);
    const b1 = v128.load(b + half);
    const s2 = v128.load(s + half * 2);
    const b2 = v128.load(b + half * 2);
    const s3 = v128.load(s + half * 3);
    const b3 = v128.load(b + half * 3);
    const m0 = f32x4.abs(lowerDelta<T>(s0, b0));
    const m1 = f32x4.abs(upperDelta<T>(rest<T>(s, s0), rest<T>(b, b0)));
    const m2 = f32x4.abs(lowerDelta<T>(s1, b1));
    const m3 = f32x4.abs(upperDelta<T>(rest<T>(s + half, s1), rest<T>(b + half, b1)));
    const m4 = f32x4.abs(lowerDelta<T>(s2, b2));
    const m5 = f32x4.abs(upperDelta<T>(rest<T>(s + half * 2, s2), rest<T>(b + half * 2, b2)));
    const m6 = f32x4.abs(lowerDelta<T>(s3, b3));
    const m7 = f32x4.abs(upperDelta<T>(rest<T>(s + half * 3, s3), rest<T>(b + half * 3, b3)));
    const all = tree(m0, m1, m2, m3, m4, m5, m6, m7);
    const marks = v128.load32_splat(bits);
    const k0 = v128.and(m0, laneMask(marks, 0));
    const k1 = v128.and(m1, laneMask(marks, 1));
    const k2 = v128.and(m2, laneMask(marks, 2));
    const k3 = v128.and(m3, laneMask(marks, 3));
    const k4 = v128.and(m4, laneMask(marks, 4));
    const k5 = v128.and(m5, laneMask(marks, 5));
    const k6 = v128.and(m6, laneMask(marks, 6));
    const k7 = v128.and(m7, laneMask(marks, 7));
    const kept = tree(k0, k1, k2, k3, k4, k5, k6, k7);
    all01 = f64x2.add(all01, f64x2.promote_low_f32x4(all));
    all23 = f64x2.add(all23, promoteHigh(all));
    kept01 = f64x2.add(kept01, f64x2.promote_low_f32x4(kept));
    kept23 = f64x2.add(kept23, promoteHigh(kept));
  }
  const left = count & 31;
  if (left != 0) {
    const all = tailTree<T>(s, b, left, 0xffffffff);
    const marks = left > 16 ? load<u32>(bits) : <u32>load<u16>(bits);
    const kept = tailTree<T>(s, b, left, marks);
    all01 = f64x2.add(all01, f64x2.promote_low_f32x4(all));
    all23 = f64x2.add(all23, promoteHigh(all));
    kept01 = f64x2.add(kept01, f64x2.promote_low_f32x4(kept));
    kept23 = f64x2.add(kept23, promoteHigh(kept));
  }
  store<f64>(SUMS, load<f64>(SUMS) + sumLanes(all01, all23));
  store<f64>(SUMS, load<f64>(SUMS, 8) + sumLanes(kept01, kept23), 8);
}

@inline function sumLanes(lanes01: v128, lanes23: v128): f64 {
  return (
    f64x2.extract_lane(lanes01, 0) +
    f64x2.extract_lane(lanes01, 1) +
    (f64x2.extract_lane(lanes23, 0) + f64x2.extract_lane(lanes23, 1))
  );
}

/** The tree sum of an incomplete run: what is missing or not marked is zero. */
function tailTree<T>(source: usize, base: usize, count: i32, marks: u32): v128 {
  memory.fill(TAIL, 0, 128);
  for (let i: usize = 0; i < <usize>count; i++) {
    const delta = one<T>(source + i * sizeof<T>()) - one<T>(base + i * sizeof<T>());
    if ((marks >> <u32>i) & 1) store<f32>(TAIL + (i << 2), abs(delta));
  }
  return tree(
    v128.load(TAIL),
    v128.load(TAIL, 16),
    v128.load(TAIL, 32),
    v128.load(TAIL, 48),
    v128.load(TAIL, 64),
    v128.load(TAIL, 80),
    v128.load(TAIL, 96),
    v128.load(TAIL, 112),
  );
}

@inline function addTiles<T>(source: usize, base: usize, bits: usize, count: i32, tileElements: i32): void {
  for (let done = 0; done < count; done += tileElements) {
    const at = <usize>done * sizeof<T>();
    addTile<T>(source + at, base + at, bits + <usize>(done >> 3), min(tileElements, count - done));
  }
}

/** The two sums are at `maskedSums`. */
export function addMagnitudes(
  dtype: i32,
  source: usize,
  base: usize,
  bits: usize,
  count: i32,
  tileElements: i32,
): void {
  if (dtype == 0) addTiles<u16>(source, base, bits, count, tileElements);
  else if (dtype == 1) addTiles<i16>(source, base, bits, count, tileElements);
  else addTiles<f32>(source, base, bits, count, tileElements);
}

/** What keeps a source's elements, for `How`: bits (and a scale), or keys. Told apart by size when it is compiled. */
type MaskBits = u16;
type LeastKey = u32;
type KeyBand = u64;

/** Kept differences times what they count for. A NaN stays NaN, so that its key need not be that of all NaN. */
@inline function weigh<How>(delta: v128, quarter: usize, first: v128, second: v128, weight: v128): v128 {
  if (sizeof<How>() == sizeof<MaskBits>()) return f32x4.mul(f32x4.mul(delta, v128.and(laneMask(first, quarter), second)), weight);
  const key = v128.and(delta, magnitude());
  let dropped = i32x4.lt_s(key, first);
  if (sizeof<How>() == sizeof<KeyBand>()) dropped = v128.or(dropped, i32x4.gt_s(key, second));
  return f32x4.mul(delta, v128.andnot(weight, dropped));
}

/** Of an entry: the mask bits of a group, or its least key. */
@inline function loadFirst<How>(entry: usize, bitOffset: usize): v128 {
  if (sizeof<How>() == sizeof<MaskBits>()) return v128.load16_splat(<usize>load<u32>(entry, 4) + bitOffset);
  return v128.load32_splat(entry, 4);
}

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
      magnitudes = addGroup(magnitudes, sum0, sum1, sum2, sum3);
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

/** Sign bits of the minority: set where the sum is neither positive nor zero. */
@inline function flips(sum: v128): v128 {
  return v128.andnot(sign(), f32x4.ge(sum, f32x4.splat(0)));
}

/** One where the value has the majority's sign, else zero. */
@inline function vote(value: v128, flip: v128): v128 {
  return v128.and(f32x4.gt(v128.xor(value, flip), f32x4.splat(0)), floatOne());
}

/** A quarter of a group: the elected sum over all sources, divided by its weights where asked. */
@inline function elect(quarter: usize, total: v128, tableEnd: usize, divides: bool): v128 {
  const flip = flips(total);
  let sum = f32x4.splat(0);
  let weights = f32x4.splat(0);
  let stored = GROUP + quarter;
  for (let entry = TABLE; entry < tableEnd; entry += 16, stored += 64) {
    const value = v128.load(stored);
    const chosen = vote(value, flip);
    sum = f32x4.add(sum, f32x4.mul(value, chosen));
    if (divides) weights = f32x4.add(weights, f32x4.mul(v128.load32_splat(entry, 12), chosen));
  }
  return divides ? divideElected(sum, weights) : sum;
}

@inline function electOf<T, How>(b: usize, n: i32, divides: bool, multiplier: f32, target: usize, count: i32): void {
  const half: usize = 8 * sizeof<T>();
  const tableEnd = TABLE + (<usize>n << 4);
  const multiplies = multiplier != 1;
  const multipliers = f32x4.splat(multiplier);
  let offset: usize = 0;
  let bitOffset: usize = 0;
  const end = target + (<usize>count << 2);
  for (let t = target; t < end; t += 64, offset += 2 * half, bitOffset += 2) {
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
      storeGroup<f32>(stored, v0, v1, v2, v3);
      sum0 = f32x4.add(sum0, v0);
      sum1 = f32x4.add(sum1, v1);
      sum2 = f32x4.add(sum2, v2);
      sum3 = f32x4.add(sum3, v3);
    }
    sum0 = elect(0, sum0, tableEnd, divides);
    sum1 = elect(16, sum1, tableEnd, divides);
    sum2 = elect(32, sum2, tableEnd, divides);
    sum3 = elect(48, sum3, tableEnd, divides);
    v128.store(t, finish(sum0, base0, true, false, sum0, multiplies, multipliers));
    v128.store(t, finish(sum1, base1, true, false, sum1, multiplies, multipliers), 16);
    v128.store(t, finish(sum2, base2, true, false, sum2, multiplies, multipliers), 32);
    v128.store(t, finish(sum3, base3, true, false, sum3, multiplies, multipliers), 48);
  }
}

/** The elected sum of two values, divided by its weights where asked. */
@inline function electPair(v: v128, w: v128, weightV: v128, weightW: v128, divides: bool): v128 {
  const flip = flips(f32x4.add(v, w));
  const chosenV = vote(v, flip);
  const chosenW = vote(w, flip);
  // From 0 on, as sums of any number are: two negative zeros are 0 then.
  const sum = f32x4.add(f32x4.add(f32x4.splat(0), f32x4.mul(v, chosenV)), f32x4.mul(w, chosenW));
  if (!divides) return sum;
  return divideElected(sum, f32x4.add(f32x4.mul(weightV, chosenV), f32x4.mul(weightW, chosenW)));
}

/** electOf for two sources, the usual number, whose values need not go through memory. */
@inline function electPairOf<T, How>(b: usize, divides: bool, multiplier: f32, target: usize, count: i32): void {
  const step: usize = 8 * sizeof<T>();
  const v = <usize>load<u32>(TABLE);
  const w = <usize>load<u32>(TABLE, 16);
  const multiplies = multiplier != 1;
  const multipliers = f32x4.splat(multiplier);
  const weightV = v128.load32_splat(TABLE, 12);
  const weightW = v128.load32_splat(TABLE, 28);
  let offset: usize = 0;
  let bitOffset: usize = 0;
  const end = target + (<usize>count << 2);
  for (let t = target; t < end; t += 32, offset += step, bitOffset++) {
    const b0 = v128.load(b + offset);
    const v0 = v128.load(v + offset);
    const w0 = v128.load(w + offset);
    const b1 = rest<T>(b + offset, b0);
    const v1 = rest<T>(v + offset, v0);
    const w1 = rest<T>(w + offset, w0);
    const firstV = loadFirst<How>(TABLE, bitOffset);
    const firstW = loadFirst<How>(TABLE + 16, bitOffset);
    const secondV = v128.load32_splat(TABLE, 8);
    const secondW = v128.load32_splat(TABLE, 24);
    const base0 = lower<T>(b0);
    const base1 = upper<T>(b1);
    const valueV0 = weigh<How>(f32x4.sub(lower<T>(v0), base0), 0, firstV, secondV, weightV);
    const valueW0 = weigh<How>(f32x4.sub(lower<T>(w0), base0), 0, firstW, secondW, weightW);
    const valueV1 = weigh<How>(f32x4.sub(upper<T>(v1), base1), 1, firstV, secondV, weightV);
    const valueW1 = weigh<How>(f32x4.sub(upper<T>(w1), base1), 1, firstW, secondW, weightW);
    const sum0 = electPair(valueV0, valueW0, weightV, weightW, divides);
    const sum1 = electPair(valueV1, valueW1, weightV, weightW, divides);
    v128.store(t, finish(sum0, base0, true, false, sum0, multiplies, multipliers));
    v128.store(t, finish(sum1, base1, true, false, sum1, multiplies, multipliers), 16);
  }
}

/** 1 divides where the weights that count cancel, or none counts. */
@inline function divideElected(sum: v128, weights: v128): v128 {
  const none = v128.and(f32x4.eq(weights, f32x4.splat(0)), floatOne());
  return f32x4.div(sum, v128.or(weights, none));
}

@inline function electBy<How>(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  if (dtype == 0 && n == 2) electPairOf<u16, How>(base, divides, multiplier, target, count);
  else if (dtype == 0) electOf<u16, How>(base, n, divides, multiplier, target, count);
  else if (dtype == 1) electOf<i16, How>(base, n, divides, multiplier, target, count);
  else electOf<f32, How>(base, n, divides, multiplier, target, count);
}

/** With election; `divides` by the sum of the chosen weights of each element. */
export function electMasked(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  electBy<MaskBits>(dtype, base, n, divides, multiplier, target, count);
}

/** With election, kept by keys. */
export function electBanded(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  electBy<KeyBand>(dtype, base, n, divides, multiplier, target, count);
}

/** With election, kept by keys of which the largest are kept. */
export function electLargest(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  electBy<LeastKey>(dtype, base, n, divides, multiplier, target, count);
}
