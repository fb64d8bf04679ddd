// What quantizers share: rounding as the reference rounds, F16 scales, four sub-blocks side by side in the lanes of
// vectors, and codes from bytes. Sub-blocks in lanes keep the order of float operations inside each one; that is what
// makes the bytes those of the oracle.
import { floatsToHalves, halvesToFloats } from "./cast";

/** 1.5 * 2^23 and its bits: added to a float, it leaves the nearest integer in the mantissa. */
export const MAGIC: f32 = 12582912;
const MAGIC_BITS: i32 = 0x4b400000;

/** Beyond these magnitudes codes may leave the integers that float32 rounds: the oracle takes such a row. */
export const TAME_MIN: f32 = 7.888609e-31;
export const TAME_MAX: f32 = 1.2676506e30;

/** core/schemes/bits.ts: nearest, for any value. */
@inline export function nearInt(value: f32): i32 {
  return (reinterpret<i32>(value + MAGIC) & 0x7fffff) - 0x400000;
}

/** The same in every lane, within integer bounds. */
@inline export function nearInts(value: v128, low: v128, high: v128): v128 {
  const bits = v128.and(f32x4.add(value, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  return i32x4.min_s(i32x4.max_s(i32x4.sub(bits, i32x4.splat(0x400000)), low), high);
}

/** Integers from floats that hold integers below 2^22. */
@inline export function toInts(value: v128): v128 {
  return i32x4.sub(f32x4.add(value, f32x4.splat(MAGIC)), i32x4.splat(MAGIC_BITS));
}

/** Sixteen bytes from integers 0 to 255. */
@inline export function toBytes(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** Writes float16(value). */
@inline export function putHalf(address: usize, value: f32): void {
  store<u16>(address, <u16>i32x4.extract_lane(floatsToHalves(f32x4.splat(value)), 0));
}

/** The same; returns the value that is read back. */
@inline export function storeHalf(address: usize, value: f32): f32 {
  putHalf(address, value);
  return loadHalf(address);
}

@inline export function loadHalf(address: usize): f32 {
  return f32x4.extract_lane(halvesToFloats(i32x4.splat(<i32>load<i16>(address))), 0);
}

@inline export function maxOfLanes(v: v128): f32 {
  const pair = f32x4.pmax(v, v128.shuffle<u32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.pmax(pair, v128.shuffle<u32>(pair, pair, 1, 0, 3, 2)), 0);
}

@inline export function minOfLanes(v: v128): f32 {
  const pair = f32x4.pmin(v, v128.shuffle<u32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.pmin(pair, v128.shuffle<u32>(pair, pair, 1, 0, 3, 2)), 0);
}

/** core/schemes/search.ts: signedExtreme, of `count` floats, a multiple of four; least first, of equals. */
@inline export function signedExtreme(source: usize, count: i32): f32 {
  let high = f32x4.splat(0);
  let low = f32x4.splat(0);
  const end = source + (<usize>count << 2);
  for (let s = source; s < end; s += 16) {
    const x = v128.load(s);
    high = f32x4.pmax(high, x);
    low = f32x4.pmin(low, x);
  }
  const largest = maxOfLanes(high);
  const least = minOfLanes(low);
  if (largest != -least) return largest > -least ? largest : least;
  if (largest == 0) return 0;
  return firstOf(source, largest);
}

/** The first float of a magnitude that is there. */
function firstOf(source: usize, magnitude: f32): f32 {
  while (abs(load<f32>(source)) != magnitude) source += 4;
  return load<f32>(source);
}

/** S(x x) of `count` floats, in order. */
export function sumOfSquares(source: usize, count: i32): f32 {
  let sum: f32 = 0;
  const end = source + (<usize>count << 2);
  for (let s = source; s < end; s += 4) {
    const value = load<f32>(s);
    sum += value * value;
  }
  return sum;
}

/** Four runs of `count` floats, `stride` bytes apart, side by side: entry i has their values i in its lanes. */
@inline export function toLanes(source: usize, stride: usize, target: usize, count: i32): void {
  const end = target + (<usize>count << 4);
  let s = source;
  for (let t = target; t < end; t += 64, s += 16) {
    const a = v128.load(s);
    const b = v128.load(s + stride);
    const c = v128.load(s + stride * 2);
    const d = v128.load(s + stride * 3);
    const ab = v128.shuffle<u32>(a, b, 0, 4, 1, 5);
    const cd = v128.shuffle<u32>(c, d, 0, 4, 1, 5);
    const abUpper = v128.shuffle<u32>(a, b, 2, 6, 3, 7);
    const cdUpper = v128.shuffle<u32>(c, d, 2, 6, 3, 7);
    v128.store(t, v128.shuffle<u64>(ab, cd, 0, 2));
    v128.store(t, v128.shuffle<u64>(ab, cd, 1, 3), 16);
    v128.store(t, v128.shuffle<u64>(abUpper, cdUpper, 0, 2), 32);
    v128.store(t, v128.shuffle<u64>(abUpper, cdUpper, 1, 3), 48);
  }
}

/** Lanes of sub-blocks: values, weights, codes while they are tried, and products of values and weights. */
export const X: usize = memory.data(512, 16);
export const W: usize = memory.data(512, 16);
export const L: usize = memory.data(512, 16);
export const WX: usize = memory.data(512, 16);

/**
 * w_i = importance_i sqrt(sigma2 + x_i^2) for the lanes in X; the importances' lanes come from `importance`. Returns
 * S(w) of each lane.
 */
export function weighByImportance(importance: usize, stride: usize, sigma2: v128, count: i32): v128 {
  toLanes(importance, stride, W, count);
  let sum = f32x4.splat(0);
  const end = <usize>count << 4;
  for (let i: usize = 0; i < end; i += 16) {
    const x = v128.load(X + i);
    const w = f32x4.mul(v128.load(W + i), f32x4.sqrt(f32x4.add(sigma2, f32x4.mul(x, x))));
    v128.store(W + i, w);
    sum = f32x4.add(sum, w);
  }
  return sum;
}

/** w_i = x_i^2. */
export function weighBySquare(count: i32): void {
  const end = <usize>count << 4;
  for (let i: usize = 0; i < end; i += 16) {
    const x = v128.load(X + i);
    v128.store(W + i, f32x4.mul(x, x));
  }
}
