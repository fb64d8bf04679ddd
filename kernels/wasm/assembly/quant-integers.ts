// core/schemes/integers.ts: codes of 3, 4, 6 and 8 bits under scales, and zero points, that are stored beside them;
// what they lost is measured on the way. Counts and widths are multiples of sixteen.
import { addLoss, largestOf, square, sumOf } from "./part-loss";
import {
  BF16,
  epsilonOf,
  F16,
  F32,
  loadScale,
  roundOne,
  roundTo,
  scaleBytes,
  scaleOf,
  storeScale,
} from "./part-rounding";
import { maxOfLanes, minOfLanes, toInts } from "./quant-lanes";

/** Zero points of a row's groups, as signed bytes. */
const ZEROS_MAX: i32 = 4096;
const ZEROS: usize = memory.data(4096, 16);

/** Where rows leave and find their zero points: this many bytes at most. */
export function integerZeros(): usize {
  return ZEROS;
}
export function integerZerosMax(): i32 {
  return ZEROS_MAX;
}

/** max|x| of a block: `count` values in each of `rows` rows, which are `stride` values apart. */
export function largestMagnitude(source: usize, count: i32, rows: i32, stride: i32): f32 {
  let a = f32x4.splat(0);
  let b = f32x4.splat(0);
  let first = source;
  for (let row = 0; row < rows; row++, first += <usize>stride << 2) {
    const end = first + (<usize>count << 2);
    for (let s = first; s < end; s += 32) {
      a = f32x4.pmax(a, f32x4.abs(v128.load(s)));
      b = f32x4.pmax(b, f32x4.abs(v128.load(s, 16)));
    }
  }
  return maxOfLanes(f32x4.pmax(a, b));
}

/** Scale of a largest magnitude under `steps` codes. */
export function scaleOfLargest(largest: f32, steps: f32, dtype: i32): f32 {
  if (dtype == BF16) return scaleOf(BF16, largest, steps);
  return dtype == F16 ? scaleOf(F16, largest, steps) : scaleOf(F32, largest, steps);
}

/** Scale of a group whose range always holds zero, its zero point left at `zero`. */
@inline function affineScale(dtype: i32, s: usize, end: usize, bits: i32, zero: usize): f32 {
  let low = f32x4.splat(0);
  let high = f32x4.splat(0);
  for (let i = s; i < end; i += 16) {
    low = f32x4.pmin(low, v128.load(i));
    high = f32x4.pmax(high, v128.load(i));
  }
  const lowest: f32 = -(<f32>(1 << (bits - 1)));
  const highest: f32 = -1 - lowest;
  const least = minOfLanes(low);
  const scale = roundOne(dtype, roundOne(dtype, maxOfLanes(high) - least) / <f32>((1 << bits) - 1));
  if (scale == 0) {
    store<i8>(zero, <i8>(<i32>lowest));
    return epsilonOf(dtype);
  }
  const place = roundOne(dtype, lowest - roundOne(dtype, least / scale));
  store<i8>(zero, <i8>(<i32>nearest(min(max(place, lowest), highest))));
  return scale;
}

/** Eight codes in the bytes of a word, `bits` each, to a dense little-endian stream. */
@inline function pack8(codes: u64, bits: i32): u64 {
  let x = codes;
  x = (x & 0x00ff00ff00ff00ff) | ((x & 0xff00ff00ff00ff00) >> (8 - bits));
  x = (x & 0x0000ffff0000ffff) | ((x & 0xffff0000ffff0000) >> (16 - 2 * bits));
  return (x & 0xffffffff) | ((x >> 32) << (4 * bits));
}

/** The inverse. */
@inline function unpack8(stream: u64, bits: i32): u64 {
  let x = stream;
  const quarter = ((<u64>1 << (2 * bits)) - 1) * 0x0000000100000001;
  const eighth = ((<u64>1 << bits) - 1) * 0x0001000100010001;
  x = (x & ((<u64>1 << (4 * bits)) - 1)) | ((x >> (4 * bits)) << 32);
  x = (x & quarter) | (((x >> (2 * bits)) & quarter) << 16);
  return (x & eighth) | (((x >> bits) & eighth) << 8);
}

/** Sixteen codes to `t`; returns what follows them. Of 3 and 6 bits the words overlap what comes next. */
@inline function storeCodes(t: usize, codes: v128, bits: i32): usize {
  if (bits == 8) {
    v128.store(t, codes);
  } else if (bits == 4) {
    // Two codes a byte, the first in its low half.
    const pairs = v128.and(v128.or(codes, i16x8.shr_u(codes, 4)), i16x8.splat(255));
    v128.store64_lane(t, i8x16.narrow_i16x8_u(pairs, pairs), 0);
  } else {
    const first = pack8(i64x2.extract_lane(codes, 0), bits);
    const second = pack8(i64x2.extract_lane(codes, 1), bits);
    if (bits == 3) {
      store<u32>(t, <u32>(first | (second << 24)));
      store<u16>(t, <u16>(second >> 8), 4);
    } else {
      store<u64>(t, first | (second << 48));
      store<u32>(t, <u32>(second >> 16), 8);
    }
  }
  return t + <usize>(2 * bits);
}

@inline function loadCodes(s: usize, bits: i32): v128 {
  if (bits == 8) return v128.load(s);
  if (bits == 4) {
    const bytes = v128.load64_zero(s);
    const low = v128.and(bytes, i8x16.splat(15));
    return v128.shuffle<u8>(low, i8x16.shr_u(bytes, 4), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  const first = bits == 3 ? <u64>load<u32>(s) : load<u64>(s);
  const second = bits == 3 ? (<u64>load<u16>(s, 4) << 8) | (first >> 24) : (<u64>load<u32>(s, 8) << 16) | (first >> 48);
  return i64x2.replace_lane(i64x2.splat(unpack8(first, bits)), 1, unpack8(second, bits));
}

/** Four codes as floats; `exact` is x / scale. */
@inline function codesOf(dtype: i32, isAffine: bool, exact: v128, zeros: v128, low: v128, high: v128): v128 {
  let quotient = roundTo(dtype, exact);
  if (isAffine) quotient = roundTo(dtype, f32x4.add(quotient, zeros));
  return f32x4.nearest(f32x4.pmin(f32x4.pmax(quotient, low), high));
}

@inline function encodeGroup(
  dtype: i32,
  bits: i32,
  isAffine: bool,
  s: usize,
  end: usize,
  t: usize,
  scale: f32,
  zero: f32,
  offset: i32,
): usize {
  const half: f32 = <f32>(1 << (bits - 1));
  const scales = f32x4.splat(scale);
  const zeros = f32x4.splat(zero);
  const low = f32x4.splat(-half);
  const high = f32x4.splat(half - 1);
  // core/schemes/limits.ts, in steps. Without a zero point the lowest code has room for the largest magnitude.
  const rounding: f32 = 1 + 1.0 / 1048576.0;
  const limit = f32x4.splat((half - 0.5 - zero) * rounding);
  const lowLimit = f32x4.splat((-half - 0.5 - zero) * rounding);
  let signal = f32x4.splat(0);
  let noise = f32x4.splat(0);
  let largest = f32x4.splat(0);
  let clipped = i32x4.splat(0);
  for (; s < end; s += 64) {
    const xa = f32x4.div(v128.load(s), scales);
    const xb = f32x4.div(v128.load(s, 16), scales);
    const xc = f32x4.div(v128.load(s, 32), scales);
    const xd = f32x4.div(v128.load(s, 48), scales);
    const a = codesOf(dtype, isAffine, xa, zeros, low, high);
    const b = codesOf(dtype, isAffine, xb, zeros, low, high);
    const c = codesOf(dtype, isAffine, xc, zeros, low, high);
    const d = codesOf(dtype, isAffine, xd, zeros, low, high);
    const la = square(f32x4.sub(xa, isAffine ? f32x4.sub(a, zeros) : a));
    const lb = square(f32x4.sub(xb, isAffine ? f32x4.sub(b, zeros) : b));
    const lc = square(f32x4.sub(xc, isAffine ? f32x4.sub(c, zeros) : c));
    const ld = square(f32x4.sub(xd, isAffine ? f32x4.sub(d, zeros) : d));
    signal = f32x4.add(signal, sumOf(square(xa), square(xb), square(xc), square(xd)));
    noise = f32x4.add(noise, sumOf(la, lb, lc, ld));
    largest = f32x4.pmax(largest, largestOf(la, lb, lc, ld));
    clipped = i32x4.add(clipped, i32x4.add(f32x4.gt(xa, limit), f32x4.gt(xb, limit)));
    clipped = i32x4.add(clipped, i32x4.add(f32x4.gt(xc, limit), f32x4.gt(xd, limit)));
    if (isAffine) {
      clipped = i32x4.add(clipped, i32x4.add(f32x4.lt(xa, lowLimit), f32x4.lt(xb, lowLimit)));
      clipped = i32x4.add(clipped, i32x4.add(f32x4.lt(xc, lowLimit), f32x4.lt(xd, lowLimit)));
    }
    const lower = i16x8.narrow_i32x4_s(toInts(a), toInts(b));
    const upper = i16x8.narrow_i32x4_s(toInts(c), toInts(d));
    t = storeCodes(t, i8x16.add(i8x16.narrow_i16x8_s(lower, upper), i8x16.splat(<i8>offset)), bits);
  }
  addLoss(scale, signal, noise, largest, clipped);
  return t;
}

@inline function quantizeRow(
  dtype: i32,
  bits: i32,
  isAffine: bool,
  source: usize,
  count: i32,
  width: i32,
  target: usize,
  scales: usize,
  shared: f32,
  offset: i32,
): void {
  const end = source + (<usize>count << 2);
  const step = <usize>width << 2;
  let t = target;
  let to = scales;
  let zero = ZEROS;
  for (let s = source; s < end; s += step) {
    let scale = shared;
    if (isAffine) scale = affineScale(dtype, s, s + step, bits, zero);
    else if (shared == 0) scale = scaleOf(dtype, largestMagnitude(s, width, 1, 0), <f32>((1 << bits) - 1) * 0.5);
    if (shared == 0) {
      storeScale(dtype, to, scale);
      to += scaleBytes(dtype);
    }
    t = encodeGroup(dtype, bits, isAffine, s, s + step, t, scale, isAffine ? <f32>load<i8>(zero) : 0, offset);
    zero++;
  }
}

@inline function quantizeAs(
  bits: i32,
  isAffine: bool,
  source: usize,
  count: i32,
  width: i32,
  target: usize,
  scales: usize,
  shared: f32,
  dtype: i32,
  offset: i32,
): void {
  if (dtype == BF16) quantizeRow(BF16, bits, isAffine, source, count, width, target, scales, shared, offset);
  else if (dtype == F16) quantizeRow(F16, bits, isAffine, source, count, width, target, scales, shared, offset);
  else quantizeRow(F32, bits, isAffine, source, count, width, target, scales, shared, offset);
}

/**
 * One row; `shared` is the scale of all groups, or 0 where each has its own, which is then stored. Codes get `offset`
 * added. With `isAffine`, zero points are left at integerZeros.
 */
export function quantizeIntegers(
  bits: i32,
  isAffine: i32,
  source: usize,
  count: i32,
  width: i32,
  target: usize,
  scales: usize,
  shared: f32,
  dtype: i32,
  offset: i32,
): void {
  if (isAffine) {
    if (bits == 8) quantizeAs(8, true, source, count, width, target, scales, shared, dtype, offset);
    else if (bits == 6) quantizeAs(6, true, source, count, width, target, scales, shared, dtype, offset);
    else if (bits == 4) quantizeAs(4, true, source, count, width, target, scales, shared, dtype, offset);
    else quantizeAs(3, true, source, count, width, target, scales, shared, dtype, offset);
  } else {
    if (bits == 8) quantizeAs(8, false, source, count, width, target, scales, shared, dtype, offset);
    else if (bits == 6) quantizeAs(6, false, source, count, width, target, scales, shared, dtype, offset);
    else if (bits == 4) quantizeAs(4, false, source, count, width, target, scales, shared, dtype, offset);
    else quantizeAs(3, false, source, count, width, target, scales, shared, dtype, offset);
  }
}

@inline function emit4(t: usize, codes: v128, scale: v128): void {
  v128.store(t, f32x4.mul(f32x4.convert_i32x4_s(codes), scale));
}

/** Sixteen values from unsigned codes less `zero`. */
@inline function emit16(t: usize, codes: v128, zero: v128, scale: v128): void {
  const low = i16x8.sub(i16x8.extend_low_i8x16_u(codes), zero);
  const high = i16x8.sub(i16x8.extend_high_i8x16_u(codes), zero);
  emit4(t, i32x4.extend_low_i16x8_s(low), scale);
  emit4(t + 16, i32x4.extend_high_i16x8_s(low), scale);
  emit4(t + 32, i32x4.extend_low_i16x8_s(high), scale);
  emit4(t + 48, i32x4.extend_high_i16x8_s(high), scale);
}

@inline function dequantizeAs(
  bits: i32,
  source: usize,
  count: i32,
  width: i32,
  scales: usize,
  isShared: i32,
  dtype: i32,
  isAffine: i32,
  flip: i32,
  target: usize,
): void {
  const end = target + (<usize>count << 2);
  const step = <usize>width << 2;
  const flips = i8x16.splat(<i8>flip);
  const half: i32 = 1 << (bits - 1);
  let zero = ZEROS;
  let s = source;
  let from = scales;
  let t = target;
  while (t < end) {
    const scale = f32x4.splat(loadScale(dtype, from));
    if (!isShared) from += scaleBytes(dtype);
    const origin = i16x8.splat(<i16>(half + (isAffine ? <i32>load<i8>(zero) : 0)));
    zero++;
    const groupEnd = t + step;
    for (; t < groupEnd; t += 64, s += <usize>(2 * bits)) {
      emit16(t, v128.xor(loadCodes(s, bits), flips), origin, scale);
    }
  }
}

/**
 * One row back; with `isShared` all groups have the first scale, with `isAffine` zero points in integerZeros. `flip` is
 * 128 for signed bytes, which then count from the lowest code as packed ones do.
 */
export function dequantizeIntegers(
  source: usize,
  count: i32,
  width: i32,
  scales: usize,
  isShared: i32,
  dtype: i32,
  bits: i32,
  isAffine: i32,
  flip: i32,
  target: usize,
): void {
  if (bits == 8) dequantizeAs(8, source, count, width, scales, isShared, dtype, isAffine, flip, target);
  else if (bits == 6) dequantizeAs(6, source, count, width, scales, isShared, dtype, isAffine, flip, target);
  else if (bits == 4) dequantizeAs(4, source, count, width, scales, isShared, dtype, isAffine, flip, target);
  else dequantizeAs(3, source, count, width, scales, isShared, dtype, isAffine, flip, target);
}
