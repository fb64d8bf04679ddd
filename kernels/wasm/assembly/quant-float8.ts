// core/schemes/float8.ts: E4M3 codes under scales that are stored beside them, and what they lost, measured on the way.
// Counts are multiples of sixteen.
import { roundToBF16 } from "./cast";
import { integerOne } from "./constants";
import { addLoss, largestOf, square, sumOf } from "./part-loss";
import { BF16, F16, F32, roundTo } from "./part-rounding";
import { toBytes } from "./quant-lanes";

/** Four codes of E4M3 in the low bytes of the lanes: nearest to a quotient, ties to even, at most 448. */
@inline export function float8Of(dtype: i32, exact: v128): v128 {
  const value = roundTo(dtype, exact);
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

/**
 * The values of four codes that are no NaN: exponent and mantissa of E4M3 as those of float32, 120 exponents too low;
 * exact below the normal numbers too.
 */
@inline export function numbersOfCodes(codes: v128): v128 {
  const size = i32x4.shl(v128.and(codes, i32x4.splat(0x7f)), 20);
  return v128.or(f32x4.mul(size, f32x4.splat(1.329227995784916e36)), i32x4.shl(i32x4.shr_u(codes, 7), 31));
}

/** Eight quotients, nearest BF16, as its bits. */
@inline function halvesOf(a: v128, b: v128): v128 {
  return v128.shuffle<i16>(roundToBF16(a), roundToBF16(b), 1, 3, 5, 7, 9, 11, 13, 15);
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
  dtype: i32,
  source: usize,
  count: i32,
  rows: i32,
  stride: i32,
  scale: f32,
  target: usize,
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
      if (dtype == BF16 && !v128.any_true(i16x8.lt_s(i16x8.min_s(lowSize, highSize), i16x8.splat(0x3c80)))) {
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
        const a = float8Of(dtype, xa);
        const b = float8Of(dtype, xb);
        const c = float8Of(dtype, xc);
        const d = float8Of(dtype, xd);
        v128.store(t, toBytes(a, b, c, d));
        la = f32x4.sub(xa, numbersOfCodes(a));
        lb = f32x4.sub(xb, numbersOfCodes(b));
        lc = f32x4.sub(xc, numbersOfCodes(c));
        ld = f32x4.sub(xd, numbersOfCodes(d));
      }
      signal = f32x4.add(signal, sumOf(square(xa), square(xb), square(xc), square(xd)));
      la = square(la);
      lb = square(lb);
      lc = square(lc);
      ld = square(ld);
      noise = f32x4.add(noise, sumOf(la, lb, lc, ld));
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
  dtype: i32,
): void {
  if (dtype == BF16) encodeFloats(BF16, source, count, rows, stride, scale, target);
  else if (dtype == F16) encodeFloats(F16, source, count, rows, stride, scale, target);
  else encodeFloats(F32, source, count, rows, stride, scale, target);
}

/** Four values of codes in the lanes. */
@inline export function valuesOf(codes: v128, scale: v128): v128 {
  const isNan = i32x4.eq(v128.and(codes, i32x4.splat(0x7f)), i32x4.splat(0x7f));
  return f32x4.mul(v128.bitselect(f32x4.splat(NaN), numbersOfCodes(codes), isNan), scale);
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
