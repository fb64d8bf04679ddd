// core/schemes/float4.ts: NVFP4 and MXFP4 as compressed-tensors stores them, with what they lost measured on the way.
// Codes are those of quant-fp4.ts, ties to the even one, and zeros keep their sign.
import { addLoss, largestOf as largestOfFour, square, sumOf } from "./part-loss";
import { F32 } from "./part-rounding";
import { float8Of, numbersOfCodes, valuesOf } from "./quant-float8";
import { fp4Codes, largestOf, setFp4Step } from "./quant-fp4";

/** Twice the magnitudes of E2M1, by code without its sign. */
const DOUBLES: usize = memory.data<u8>([0, 1, 2, 3, 4, 6, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0]);

/** Sixteen codes as twice their magnitudes, and their signs as zero or -128. */
@inline function doublesOf(codes: v128): v128 {
  return i8x16.swizzle(v128.load(DOUBLES), v128.and(codes, i8x16.splat(7)));
}

/** Four numbers from doubled magnitudes, with the signs of the lanes' upper bits. */
@inline function numbers4(doubled: v128, signs: v128): v128 {
  const sign = v128.and(signs, i32x4.splat(<i32>0x80000000));
  return v128.or(f32x4.mul(f32x4.convert_i32x4_s(doubled), f32x4.splat(0.5)), sign);
}

/** Numbers of sixteen codes, a vector each, for `part` 0 to 3. */
@inline function numbersOf(codes: v128, part: i32): v128 {
  const doubled = doublesOf(codes);
  const signs = i8x16.shl(codes, 4);
  const wide = part < 2 ? i16x8.extend_low_i8x16_u(doubled) : i16x8.extend_high_i8x16_u(doubled);
  const wideSigns = part < 2 ? i16x8.extend_low_i8x16_s(signs) : i16x8.extend_high_i8x16_s(signs);
  return part & 1
    ? numbers4(i32x4.extend_high_i16x8_u(wide), i32x4.extend_high_i16x8_s(wideSigns))
    : numbers4(i32x4.extend_low_i16x8_u(wide), i32x4.extend_low_i16x8_s(wideSigns));
}

/** Codes of `count` values under a scale, two a byte, the first in the low half. */
@inline function encodeGroup(s: usize, count: i32, t: usize, scale: f32): void {
  const scales = f32x4.splat(scale);
  let signal = f32x4.splat(0);
  let noise = f32x4.splat(0);
  let largest = f32x4.splat(0);
  const end = s + (<usize>count << 2);
  for (; s < end; s += 64, t += 8) {
    const a = f32x4.div(v128.load(s), scales);
    const b = f32x4.div(v128.load(s, 16), scales);
    const c = f32x4.div(v128.load(s, 32), scales);
    const d = f32x4.div(v128.load(s, 48), scales);
    const codes = fp4Codes(a, b, c, d, true);
    const pairs = v128.and(v128.or(codes, i16x8.shr_u(codes, 4)), i16x8.splat(255));
    v128.store64_lane(t, i8x16.narrow_i16x8_u(pairs, pairs), 0);
    const la = square(f32x4.sub(a, numbersOf(codes, 0)));
    const lb = square(f32x4.sub(b, numbersOf(codes, 1)));
    const lc = square(f32x4.sub(c, numbersOf(codes, 2)));
    const ld = square(f32x4.sub(d, numbersOf(codes, 3)));
    signal = f32x4.add(signal, sumOf(square(a), square(b), square(c), square(d)));
    noise = f32x4.add(noise, sumOf(la, lb, lc, ld));
    largest = f32x4.pmax(largest, largestOfFour(la, lb, lc, ld));
  }
  addLoss(scale, signal, noise, largest, i32x4.splat(0));
}

@inline function decodeGroup(s: usize, count: i32, t: usize, scale: f32): void {
  const scales = f32x4.splat(scale);
  const end = t + (<usize>count << 2);
  for (; t < end; t += 64, s += 8) {
    const bytes = v128.load64_zero(s);
    const low = v128.and(bytes, i8x16.splat(15));
    const high = i8x16.shr_u(bytes, 4);
    const codes = v128.shuffle<u8>(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v128.store(t, f32x4.mul(numbersOf(codes, 0), scales));
    v128.store(t, f32x4.mul(numbersOf(codes, 1), scales), 16);
    v128.store(t, f32x4.mul(numbersOf(codes, 2), scales), 32);
    v128.store(t, f32x4.mul(numbersOf(codes, 3), scales), 48);
  }
}

/** 2^(e - 127); 255 is NaN. */
@inline function powerOf(exponent: i32): f32 {
  if (exponent == 255) return NaN;
  return reinterpret<f32>(exponent > 0 ? exponent << 23 : 0x400000);
}

export function quantizeFloats4MX(source: usize, count: i32, codes: usize, scales: usize): void {
  setFp4Step(0.5);
  const end = source + (<usize>count << 2);
  let t = codes;
  let to = scales;
  for (let s = source; s < end; s += 128, t += 16, to++) {
    // The mantissa counts as the next power of two from 1.75 on.
    const rounded = (reinterpret<i32>(largestOf(s, 32)) + 0x200000) >> 23;
    const exponent = max(0, (rounded & 255) - 2);
    store<u8>(to, <u8>exponent);
    encodeGroup(s, 32, t, powerOf(exponent));
  }
}

export function dequantizeFloats4MX(source: usize, count: i32, scales: usize, target: usize): void {
  const end = target + (<usize>count << 2);
  let s = source;
  let from = scales;
  for (let t = target; t < end; t += 128, s += 16, from++) decodeGroup(s, 32, t, powerOf(<i32>load<u8>(from)));
}

/** Code of the scale that a group takes instead of zero, 0.125. */
const EPSILON_CODE: i32 = 0x20;

export function quantizeFloats4NV(source: usize, count: i32, codes: usize, scales: usize, global: f32): void {
  setFp4Step(0.5);
  const end = source + (<usize>count << 2);
  let t = codes;
  let to = scales;
  for (let s = source; s < end; s += 64, t += 8, to++) {
    let code = float8Of(F32, f32x4.splat(global * (largestOf(s, 16) / 6)));
    if (i32x4.extract_lane(code, 0) == 0) code = i32x4.splat(EPSILON_CODE);
    store<u8>(to, <u8>i32x4.extract_lane(code, 0));
    encodeGroup(s, 16, t, f32x4.extract_lane(numbersOfCodes(code), 0) / global);
  }
}

export function dequantizeFloats4NV(source: usize, count: i32, scales: usize, global: f32, target: usize): void {
  const end = target + (<usize>count << 2);
  let s = source;
  let from = scales;
  for (let t = target; t < end; t += 64, s += 8, from++) {
    const scale = valuesOf(i32x4.splat(<i32>load<u8>(from)), f32x4.splat(1));
    decodeGroup(s, 16, t, f32x4.extract_lane(scale, 0) / global);
  }
}
