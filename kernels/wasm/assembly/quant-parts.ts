// core/schemes/integers.ts (symmetric, 4 and 8 bits) and core/schemes/float8.ts (E4M3): codes under scales that are
// stored beside them, and what they lost, measured on the way. `rounds` is true where the weights' dtype is BF16 and every result is rounded to it. Counts and
// widths are multiples of sixteen.
import { bf16Half, integerOne } from "./constants";
import { maxOfLanes, toBytes, toInts } from "./quant-lanes";

/** Nearest BF16, as float32. */
@inline function toBF16(value: v128): v128 {
  const odd = v128.and(i32x4.shr_u(value, 16), integerOne());
  return v128.and(i32x4.add(i32x4.add(value, bf16Half()), odd), i32x4.splat(<i32>0xffff0000));
}

@inline function roundOne(value: f32, rounds: bool): f32 {
  return rounds ? f32x4.extract_lane(toBF16(f32x4.splat(value)), 0) : value;
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

/** The scale of a largest magnitude: rounded, and epsilon instead of zero. */
@inline function scaleOf(largest: f32, steps: f32, rounds: bool): f32 {
  const scale = roundOne(largest / steps, rounds);
  if (scale != 0) return scale;
  return rounds ? 0.0078125 : 1.1920929e-7;
}

@inline function storeScale(address: usize, scale: f32, rounds: bool): void {
  if (rounds) store<u16>(address, <u16>(reinterpret<u32>(scale) >> 16));
  else store<f32>(address, scale);
}

@inline function loadScale(address: usize, rounds: bool): f32 {
  return rounds ? reinterpret<f32>(<u32>load<u16>(address) << 16) : load<f32>(address);
}

// What the groups since `beginPartsLoss` lost, as core/ops/loss.ts has it but for the number of elements: signal, noise,
// the largest difference and what was clipped. Differences are taken in steps of a group, x / scale less the code's
// value, in float32; their sums over one group are weighed by scale^2 and added in float64.
const LOSS: usize = memory.data(32, 16);

/** Forgets what was lost; returns where it is found afterwards: four f64. */
export function beginPartsLoss(): usize {
  memory.fill(LOSS, 0, 32);
  return LOSS;
}

@inline function sumOfLanes(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
  );
}

@inline function addLoss(scale: f32, signal: v128, noise: v128, largest: v128, clipped: v128): void {
  const square = <f64>scale * <f64>scale;
  store<f64>(LOSS, load<f64>(LOSS) + square * <f64>sumOfLanes(signal));
  store<f64>(LOSS, load<f64>(LOSS, 8) + square * <f64>sumOfLanes(noise), 8);
  store<f64>(LOSS, max(load<f64>(LOSS, 16), <f64>scale * <f64>maxOfLanes(largest)), 16);
  const count =
    i32x4.extract_lane(clipped, 0) +
    i32x4.extract_lane(clipped, 1) +
    (i32x4.extract_lane(clipped, 2) + i32x4.extract_lane(clipped, 3));
  store<f64>(LOSS, load<f64>(LOSS, 24) - <f64>count, 24);
}

@inline function square(v: v128): v128 {
  return f32x4.mul(v, v);
}

@inline function sumOf(a: v128, b: v128, c: v128, d: v128): v128 {
  return f32x4.add(f32x4.add(a, b), f32x4.add(c, d));
}

@inline function largestOf(a: v128, b: v128, c: v128, d: v128): v128 {
  return f32x4.pmax(f32x4.pmax(f32x4.abs(a), f32x4.abs(b)), f32x4.pmax(f32x4.abs(c), f32x4.abs(d)));
}

/** Four codes as floats. */
@inline function integersOf(exact: v128, rounds: bool, low: v128, high: v128): v128 {
  const quotient = rounds ? toBF16(exact) : exact;
  return f32x4.nearest(f32x4.pmin(f32x4.pmax(quotient, low), high));
}

@inline function encodeGroup(s: usize, end: usize, t: usize, scale: f32, bits: i32, offset: i32, rounds: bool): usize {
  const scales = f32x4.splat(scale);
  const low = f32x4.splat(<f32>(bits == 4 ? -8 : -128));
  const high = f32x4.splat(<f32>(bits == 4 ? 7 : 127));
  // The lowest code has room for the largest magnitude, so that only positive values are clipped; core/schemes/limits.ts.
  const limit = f32x4.splat(<f32>(bits == 4 ? 7.5 : 127.5) * <f32>(1 + 1.0 / 1048576.0));
  let signal = f32x4.splat(0);
  let noise = f32x4.splat(0);
  let largest = f32x4.splat(0);
  let clipped = i32x4.splat(0);
  for (; s < end; s += 64) {
    const xa = f32x4.div(v128.load(s), scales);
    const xb = f32x4.div(v128.load(s, 16), scales);
    const xc = f32x4.div(v128.load(s, 32), scales);
    const xd = f32x4.div(v128.load(s, 48), scales);
    const a = integersOf(xa, rounds, low, high);
    const b = integersOf(xb, rounds, low, high);
    const c = integersOf(xc, rounds, low, high);
    const d = integersOf(xd, rounds, low, high);
    const la = f32x4.sub(xa, a);
    const lb = f32x4.sub(xb, b);
    const lc = f32x4.sub(xc, c);
    const ld = f32x4.sub(xd, d);
    signal = f32x4.add(signal, sumOf(square(xa), square(xb), square(xc), square(xd)));
    noise = f32x4.add(noise, sumOf(square(la), square(lb), square(lc), square(ld)));
    largest = f32x4.pmax(largest, largestOf(la, lb, lc, ld));
    const beyond = i32x4.add(
      i32x4.add(f32x4.gt(xa, limit), f32x4.gt(xb, limit)),
      i32x4.add(f32x4.gt(xc, limit), f32x4.gt(xd, limit)),
    );
    clipped = i32x4.add(clipped, beyond);
    const lower = i16x8.narrow_i32x4_s(toInts(a), toInts(b));
    const upper = i16x8.narrow_i32x4_s(toInts(c), toInts(d));
    const codes = i8x16.add(i8x16.narrow_i16x8_s(lower, upper), i8x16.splat(<i8>offset));
    if (bits == 4) {
      // Two codes a byte, the first in its low half.
      const pairs = v128.and(v128.or(codes, i16x8.shr_u(codes, 4)), i16x8.splat(255));
      v128.store64_lane(t, i8x16.narrow_i16x8_u(pairs, pairs), 0);
      t += 8;
    } else {
      v128.store(t, codes);
      t += 16;
    }
  }
  addLoss(scale, signal, noise, largest, clipped);
  return t;
}

@inline function quantizeRow(
  source: usize,
  count: i32,
  width: i32,
  target: usize,
  scales: usize,
  shared: f32,
  bits: i32,
  offset: i32,
  rounds: bool,
): void {
  const end = source + (<usize>count << 2);
  const step = <usize>width << 2;
  let t = target;
  let to = scales;
  for (let s = source; s < end; s += step) {
    let scale = shared;
    if (shared == 0) {
      scale = scaleOf(largestMagnitude(s, width, 1, 0), bits == 4 ? 7.5 : 127.5, rounds);
      storeScale(to, scale, rounds);
      to += rounds ? 2 : 4;
    }
    t = encodeGroup(s, s + step, t, scale, bits, offset, rounds);
  }
}

/** One row; `shared` is the scale of all groups, or 0 where each has its own, which is then stored. */
export function quantizeIntegers4(
  source: usize,
  count: i32,
  width: i32,
  target: usize,
  scales: usize,
  shared: f32,
  rounds: i32,
): void {
  if (rounds) quantizeRow(source, count, width, target, scales, shared, 4, 8, true);
  else quantizeRow(source, count, width, target, scales, shared, 4, 8, false);
}

/** The same with a byte for each code, to which `offset` is added. */
export function quantizeIntegers8(
  source: usize,
  count: i32,
  width: i32,
  target: usize,
  scales: usize,
  shared: f32,
  rounds: i32,
  offset: i32,
): void {
  if (rounds) quantizeRow(source, count, width, target, scales, shared, 8, offset, true);
  else quantizeRow(source, count, width, target, scales, shared, 8, offset, false);
}

/** Scale of a largest magnitude under `steps` codes. */
export function scaleOfLargest(largest: f32, steps: f32, rounds: i32): f32 {
  return scaleOf(largest, steps, rounds != 0);
}

@inline function emit4(t: usize, codes: v128, scale: v128): void {
  v128.store(t, f32x4.mul(f32x4.convert_i32x4_s(codes), scale));
}

@inline function emit16(t: usize, codes: v128, scale: v128): void {
  const low = i16x8.extend_low_i8x16_s(codes);
  const high = i16x8.extend_high_i8x16_s(codes);
  emit4(t, i32x4.extend_low_i16x8_s(low), scale);
  emit4(t + 16, i32x4.extend_high_i16x8_s(low), scale);
  emit4(t + 32, i32x4.extend_low_i16x8_s(high), scale);
  emit4(t + 48, i32x4.extend_high_i16x8_s(high), scale);
}

/** One row back; with `isShared` all groups have the first scale. */
export function dequantizeIntegers(
  source: usize,
  count: i32,
  width: i32,
  scales: usize,
  isShared: i32,
  rounds: i32,
  bits: i32,
  offset: i32,
  target: usize,
): void {
  const end = target + (<usize>count << 2);
  const step = <usize>width << 2;
  const offsets = i8x16.splat(<i8>offset);
  let s = source;
  let from = scales;
  let t = target;
  while (t < end) {
    const scale = f32x4.splat(loadScale(from, rounds != 0));
    if (!isShared) from += rounds ? 2 : 4;
    const groupEnd = t + step;
    for (; t < groupEnd; t += 64) {
      let codes: v128;
      if (bits == 4) {
        const bytes = v128.load64_zero(s);
        const low = v128.and(bytes, i8x16.splat(15));
        codes = v128.shuffle<u8>(low, i8x16.shr_u(bytes, 4), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        s += 8;
      } else {
        codes = v128.load(s);
        s += 16;
      }
      emit16(t, i8x16.sub(codes, offsets), scale);
    }
  }
}

/** Four codes of E4M3 in the low bytes of the lanes: nearest to a quotient, ties to even, at most 448. */
@inline function float8Of(exact: v128, rounds: bool): v128 {
  const value = rounds ? toBF16(exact) : exact;
  const size = v128.and(value, i32x4.splat(0x7fffffff));
  const odd = v128.and(i32x4.shr_u(size, 20), integerOne());
  const rounded = i32x4.shr_u(i32x4.add(i32x4.add(size, i32x4.splat(0x7ffff)), odd), 20);
  const normal = i32x4.sub(rounded, i32x4.splat(960));
  // Below 2^-6 codes count in steps of 2^-9, which adding 2^23 rounds to.
  const small = i32x4.sub(f32x4.add(f32x4.mul(size, f32x4.splat(512)), f32x4.splat(8388608)), i32x4.splat(0x4b000000));
  const code = v128.bitselect(small, normal, i32x4.lt_s(size, i32x4.splat(0x3c800000)));
  const sign = i32x4.shl(i32x4.shr_u(value, 31), 7);
  return v128.or(i32x4.min_s(code, i32x4.splat(0x7e)), sign);
}

/** The values of four codes that are no NaN. */
@inline function numbersOfCodes(codes: v128): v128 {
  const size = i32x4.shl(v128.and(codes, i32x4.splat(0x7f)), 20);
  return v128.or(f32x4.mul(size, f32x4.splat(1.329227995784916e36)), i32x4.shl(i32x4.shr_u(codes, 7), 31));
}

/** Eight quotients, nearest BF16, as its bits. */
@inline function halvesOf(a: v128, b: v128): v128 {
  const oddA = v128.and(i32x4.shr_u(a, 16), integerOne());
  const oddB = v128.and(i32x4.shr_u(b, 16), integerOne());
  return v128.shuffle<i16>(
    i32x4.add(i32x4.add(a, bf16Half()), oddA),
    i32x4.add(i32x4.add(b, bf16Half()), oddB),
    1, 3, 5, 7, 9, 11, 13, 15,
  );
}

/** Magnitudes of eight BF16 that are normal numbers of E4M3, with three bits of mantissa, less four bits; at most 448. */
@inline function roundedOf(size: v128): v128 {
  const odd = v128.and(i16x8.shr_u(size, 4), i16x8.splat(1));
  const rounded = i16x8.shr_u(i16x8.add(i16x8.add(size, i16x8.splat(7)), odd), 4);
  return i16x8.min_s(rounded, i16x8.splat(960 + 0x7e));
}

/** Codes of eight rounded magnitudes with the signs of their numbers. */
@inline function codesOf(halves: v128, rounded: v128): v128 {
  return v128.or(i16x8.sub(rounded, i16x8.splat(960)), i16x8.shl(i16x8.shr_u(halves, 15), 7));
}

/** Eight rounded magnitudes with their signs, as BF16. */
@inline function signedOf(halves: v128, rounded: v128): v128 {
  return v128.or(i16x8.shl(rounded, 4), v128.and(halves, i16x8.splat(<i16>0x8000)));
}

@inline function lowFloats(halves: v128): v128 {
  return v128.shuffle<u16>(i16x8.splat(0), halves, 0, 8, 1, 9, 2, 10, 3, 11);
}

@inline function highFloats(halves: v128): v128 {
  return v128.shuffle<u16>(i16x8.splat(0), halves, 4, 12, 5, 13, 6, 14, 7, 15);
}

@inline function encodeFloats(
  source: usize,
  count: i32,
  rows: i32,
  stride: i32,
  scale: f32,
  target: usize,
  rounds: bool,
): void {
  const scales = f32x4.splat(scale);
  let signal = f32x4.splat(0);
  let noise = f32x4.splat(0);
  let largest = f32x4.splat(0);
  for (let row = 0; row < rows; row++) {
    let t = target + <usize>(row * stride);
    let s = source + (<usize>(row * stride) << 2);
    const end = s + (<usize>count << 2);
    for (; s < end; s += 64, t += 16) {
      const xa = f32x4.div(v128.load(s), scales);
      const xb = f32x4.div(v128.load(s, 16), scales);
      const xc = f32x4.div(v128.load(s, 32), scales);
      const xd = f32x4.div(v128.load(s, 48), scales);
      let la: v128;
      let lb: v128;
      let lc: v128;
      let ld: v128;
      const low = halvesOf(xa, xb);
      const high = halvesOf(xc, xd);
      const lowSize = v128.and(low, i16x8.splat(0x7fff));
      const highSize = v128.and(high, i16x8.splat(0x7fff));
      // Almost never is one below 2^-6, where codes count otherwise.
      if (rounds && !v128.any_true(i16x8.lt_s(i16x8.min_s(lowSize, highSize), i16x8.splat(0x3c80)))) {
        const lowRounded = roundedOf(lowSize);
        const highRounded = roundedOf(highSize);
        v128.store(t, i8x16.narrow_i16x8_u(codesOf(low, lowRounded), codesOf(high, highRounded)));
        const lowNumbers = signedOf(low, lowRounded);
        const highNumbers = signedOf(high, highRounded);
        la = f32x4.sub(xa, lowFloats(lowNumbers));
        lb = f32x4.sub(xb, highFloats(lowNumbers));
        lc = f32x4.sub(xc, lowFloats(highNumbers));
        ld = f32x4.sub(xd, highFloats(highNumbers));
      } else {
        const a = float8Of(xa, rounds);
        const b = float8Of(xb, rounds);
        const c = float8Of(xc, rounds);
        const d = float8Of(xd, rounds);
        v128.store(t, toBytes(a, b, c, d));
        la = f32x4.sub(xa, numbersOfCodes(a));
        lb = f32x4.sub(xb, numbersOfCodes(b));
        lc = f32x4.sub(xc, numbersOfCodes(c));
        ld = f32x4.sub(xd, numbersOfCodes(d));
      }
      signal = f32x4.add(signal, sumOf(square(xa), square(xb), square(xc), square(xd)));
      noise = f32x4.add(noise, sumOf(square(la), square(lb), square(lc), square(ld)));
      largest = f32x4.pmax(largest, largestOf(la, lb, lc, ld));
    }
  }
  addLoss(scale, signal, noise, largest, i32x4.splat(0));
}

/** Codes of a block. */
export function encodeE4M3(
  source: usize,
  count: i32,
  rows: i32,
  stride: i32,
  scale: f32,
  target: usize,
  rounds: i32,
): void {
  if (rounds) encodeFloats(source, count, rows, stride, scale, target, true);
  else encodeFloats(source, count, rows, stride, scale, target, false);
}

/** Four values of codes in the lanes. */
@inline function valuesOf(codes: v128, scale: v128): v128 {
  const size = i32x4.shl(v128.and(codes, i32x4.splat(0x7f)), 20);
  // Exponent and mantissa of E4M3 as those of float32, 120 exponents too low; exact below the normal numbers too.
  const value = f32x4.mul(size, f32x4.splat(1.329227995784916e36));
  const isNan = i32x4.eq(size, i32x4.splat(0x7f00000));
  const signed = v128.or(value, i32x4.shl(i32x4.shr_u(codes, 7), 31));
  return f32x4.mul(v128.bitselect(f32x4.splat(NaN), signed, isNan), scale);
}

/** The same of codes that are no NaN, extended with their sign. */
@inline function numbersOf(codes: v128, scale: v128): v128 {
  const value = v128.and(i32x4.shl(codes, 20), i32x4.splat(<i32>0x87f00000));
  return f32x4.mul(f32x4.mul(value, f32x4.splat(1.329227995784916e36)), scale);
}

/** Values of a block. */
export function decodeE4M3(source: usize, count: i32, rows: i32, stride: i32, scale: f32, target: usize): void {
  const scales = f32x4.splat(scale);
  for (let row = 0; row < rows; row++) {
    let s = source + <usize>(row * stride);
    let t = target + (<usize>(row * stride) << 2);
    const end = t + (<usize>count << 2);
    for (; t < end; t += 64, s += 16) {
      const codes = v128.load(s);
      if (!v128.any_true(i8x16.eq(v128.and(codes, i8x16.splat(0x7f)), i8x16.splat(0x7f)))) {
        const low = i16x8.extend_low_i8x16_s(codes);
        const high = i16x8.extend_high_i8x16_s(codes);
        v128.store(t, numbersOf(i32x4.extend_low_i16x8_s(low), scales));
        v128.store(t, numbersOf(i32x4.extend_high_i16x8_s(low), scales), 16);
        v128.store(t, numbersOf(i32x4.extend_low_i16x8_s(high), scales), 32);
        v128.store(t, numbersOf(i32x4.extend_high_i16x8_s(high), scales), 48);
        continue;
      }
      const low = i16x8.extend_low_i8x16_u(codes);
      const high = i16x8.extend_high_i8x16_u(codes);
      v128.store(t, valuesOf(i32x4.extend_low_i16x8_u(low), scales));
      v128.store(t, valuesOf(i32x4.extend_high_i16x8_u(low), scales), 16);
      v128.store(t, valuesOf(i32x4.extend_low_i16x8_u(high), scales), 32);
      v128.store(t, valuesOf(i32x4.extend_high_i16x8_u(high), scales), 48);
    }
  }
}
