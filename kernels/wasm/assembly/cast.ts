// core/ops/cast.ts: widen and narrow. Counting non-finite values costs one OR per vector: only when a vector had one is
// the tile counted element by element.

import {
  bf16Exponents,
  bf16Half,
  f16Exponents,
  f16Limit,
  f16Scale,
  f16Shifted,
  f32Exponent,
  integerOne,
} from "./constants";

const EXPONENT: i32 = 0x7f800000;
const QUIET_NAN: i32 = 0x7fc00000;

@inline function isNonFinite(bits: i32): i32 {
  return i32((bits & EXPONENT) == EXPONENT);
}

function countNonFinite(address: usize, count: i32): i32 {
  let found = 0;
  for (let i = 0; i < count; i++) found += isNonFinite(load<i32>(address + (<usize>i << 2)));
  return found;
}

/** BF16 is the upper half of float32: one shuffle with zeros for four values. */
export function widenBF16(source: usize, target: usize, count: i32): i32 {
  const zero = i16x8.splat(0);
  const exponent = bf16Exponents();
  let any = i16x8.splat(0);
  let s = source;
  let t = target;
  const vectorEnd = source + (<usize>(count & ~7) << 1);
  for (; s < vectorEnd; s += 16, t += 32) {
    const half = v128.load(s);
    any = v128.or(any, i16x8.eq(v128.and(half, exponent), exponent));
    v128.store(t, v128.shuffle<u16>(zero, half, 0, 8, 1, 9, 2, 10, 3, 11));
    v128.store(t, v128.shuffle<u16>(zero, half, 4, 12, 5, 13, 6, 14, 7, 15), 16);
  }
  let tail = 0;
  const end = source + (<usize>count << 1);
  for (; s < end; s += 2, t += 4) {
    const bits = <i32>load<u16>(s) << 16;
    store<i32>(t, bits);
    tail |= isNonFinite(bits);
  }
  return v128.any_true(any) || tail ? countNonFinite(target, count) : 0;
}

export function widenF32(source: usize, target: usize, count: i32): i32 {
  const exponent = f32Exponent();
  let any = i32x4.splat(0);
  let s = source;
  let t = target;
  const vectorEnd = source + (<usize>(count & ~3) << 2);
  for (; s < vectorEnd; s += 16, t += 16) {
    const bits = v128.load(s);
    any = v128.or(any, i32x4.eq(v128.and(bits, exponent), exponent));
    v128.store(t, bits);
  }
  let tail = 0;
  const end = source + (<usize>count << 2);
  for (; s < end; s += 4, t += 4) {
    const bits = load<i32>(s);
    store<i32>(t, bits);
    tail |= isNonFinite(bits);
  }
  return v128.any_true(any) || tail ? countNonFinite(target, count) : 0;
}

/** Four halves, sign-extended to 32 bits, to float32 bits: exact, subnormals through one exact multiplication. */
@inline export function halvesToFloats(half: v128): v128 {
  // Exponent and mantissa 13 bits up, the sign at the top: the value divided by 2^112.
  const shifted = v128.and(i32x4.shl(half, 13), f16Shifted());
  const scaled = f32x4.mul(shifted, f16Scale());
  // Infinity and NaN come out as 2^16 and more, which no finite half is.
  const special = f32x4.ge(f32x4.abs(scaled), f16Limit());
  return v128.or(scaled, v128.and(special, f32Exponent()));
}

export function widenF16(source: usize, target: usize, count: i32): i32 {
  const exponent = f16Exponents();
  let any = i16x8.splat(0);
  let s = source;
  let t = target;
  const vectorEnd = source + (<usize>(count & ~7) << 1);
  for (; s < vectorEnd; s += 16, t += 32) {
    const half = v128.load(s);
    any = v128.or(any, i16x8.eq(v128.and(half, exponent), exponent));
    v128.store(t, halvesToFloats(i32x4.extend_low_i16x8_s(half)));
    v128.store(t, halvesToFloats(i32x4.extend_high_i16x8_s(half)), 16);
  }
  let tail = 0;
  const end = source + (<usize>count << 1);
  for (; s < end; s += 2, t += 4) {
    const bits = i32x4.extract_lane(halvesToFloats(i32x4.splat(<i32>load<i16>(s))), 0);
    store<i32>(t, bits);
    tail |= isNonFinite(bits);
  }
  return v128.any_true(any) || tail ? countNonFinite(target, count) : 0;
}

export function widenF64(source: usize, target: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    store<f32>(target + (<usize>i << 2), <f32>load<f64>(source + (<usize>i << 3)));
  }
  return countNonFinite(target, count);
}

/** float32 bits with every NaN replaced by the positive quiet one. */
@inline function quiet(bits: v128): v128 {
  return v128.bitselect(i32x4.splat(QUIET_NAN), bits, f32x4.ne(bits, bits));
}

/** Adds half a unit of the sixteenth bit, ties to even: the upper halves of the lanes are the result unless NaN. */
@inline export function roundToBF16(bits: v128): v128 {
  const odd = v128.and(i32x4.shr_u(bits, 16), integerOne());
  return i32x4.add(i32x4.add(bits, bf16Half()), odd);
}

export function narrowBF16(source: usize, target: usize, count: i32): i32 {
  const exponent = bf16Exponents();
  let any = i16x8.splat(0);
  let s = source;
  let t = target;
  const vectorEnd = source + (<usize>(count & ~7) << 2);
  for (; s < vectorEnd; s += 32, t += 16) {
    const low = v128.load(s);
    const high = v128.load(s, 16);
    const half = v128.shuffle<u16>(roundToBF16(low), roundToBF16(high), 1, 3, 5, 7, 9, 11, 13, 15);
    // NaN if either is; infinities of both signs may say so too, and are looked at again all the same.
    const sum = f32x4.add(low, high);
    any = v128.or(any, v128.or(f32x4.ne(sum, sum), i16x8.eq(v128.and(half, exponent), exponent)));
    v128.store(t, half);
  }
  const end = source + (<usize>count << 2);
  for (; s < end; s += 4, t += 2) {
    const value = load<f32>(s);
    const bits = i32x4.extract_lane(roundToBF16(f32x4.splat(value)), 0);
    store<u16>(t, <u16>(bits >>> 16));
    if (value != value || isNonFinite(bits)) any = i16x8.splat(-1);
  }
  return v128.any_true(any) ? repairBF16(source, target, count) : 0;
}

/** Second look at a tile that holds NaN or infinity: writes the quiet NaN, counts both. */
function repairBF16(source: usize, target: usize, count: i32): i32 {
  let found = 0;
  for (let i = 0; i < count; i++) {
    const value = load<f32>(source + (<usize>i << 2));
    const address = target + (<usize>i << 1);
    if (value != value) store<u16>(address, 0x7fc0);
    found += isNonFinite(<i32>load<u16>(address) << 16);
  }
  return found;
}

export function narrowF32(source: usize, target: usize, count: i32): i32 {
  const exponent = f32Exponent();
  let any = i32x4.splat(0);
  let s = source;
  let t = target;
  const vectorEnd = source + (<usize>(count & ~3) << 2);
  for (; s < vectorEnd; s += 16, t += 16) {
    const bits = quiet(v128.load(s));
    any = v128.or(any, i32x4.eq(v128.and(bits, exponent), exponent));
    v128.store(t, bits);
  }
  let tail = 0;
  const end = source + (<usize>count << 2);
  for (; s < end; s += 4, t += 4) {
    const bits = i32x4.extract_lane(quiet(f32x4.splat(load<f32>(s))), 0);
    store<i32>(t, bits);
    tail |= isNonFinite(bits);
  }
  return v128.any_true(any) || tail ? countNonFinite(target, count) : 0;
}

/** Magnitudes from 2^-14 up to 2^16 make normal halves (or round to infinity): one subtraction tells. */
@inline function isNormalHalf(magnitude: v128): v128 {
  return i32x4.lt_u(i32x4.sub(magnitude, i32x4.splat(0x38800000)), i32x4.splat(0x0f000000));
}

/** float32 to half in the low 16 bits of each lane: nearest even, overflow to infinity, subnormals kept, NaN 7e00. */
@inline export function floatsToHalves(value: v128): v128 {
  const sign = v128.and(i32x4.shr_u(value, 16), i32x4.splat(0x8000));
  const magnitude = v128.and(value, i32x4.splat(0x7fffffff));
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const rebiased = i32x4.add(i32x4.add(magnitude, i32x4.splat(<i32>0xc8000fff)), odd);
  const normal = v128.or(i32x4.shr_u(rebiased, 13), sign);
  // Most weights are normal halves; the rest is worth a branch.
  if (i32x4.all_true(isNormalHalf(magnitude))) return normal;
  return irregularHalves(value, magnitude, normal, sign);
}

/** The same for lanes that may be subnormal, too large, or NaN. */
function irregularHalves(value: v128, magnitude: v128, normal: v128, sign: v128): v128 {
  // Adding 0.5 puts the rounding of the float unit at a subnormal half's last bit.
  const small = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  let half = v128.bitselect(v128.or(small, sign), normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
  const infinity = v128.or(i32x4.splat(0x7c00), sign);
  half = v128.bitselect(infinity, half, i32x4.ge_s(magnitude, i32x4.splat(0x47800000)));
  return v128.bitselect(i32x4.splat(0x7e00), half, f32x4.ne(value, value));
}

export function narrowF16(source: usize, target: usize, count: i32): i32 {
  const exponent = f16Exponents();
  let any = i16x8.splat(0);
  let s = source;
  let t = target;
  const vectorEnd = source + (<usize>(count & ~7) << 2);
  for (; s < vectorEnd; s += 32, t += 16) {
    const low = floatsToHalves(v128.load(s));
    const high = floatsToHalves(v128.load(s, 16));
    const half = v128.shuffle<u16>(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
    any = v128.or(any, i16x8.eq(v128.and(half, exponent), exponent));
    v128.store(t, half);
  }
  let tail = 0;
  const end = source + (<usize>count << 2);
  for (; s < end; s += 4, t += 2) {
    const half = i32x4.extract_lane(floatsToHalves(f32x4.splat(load<f32>(s))), 0);
    store<u16>(t, <u16>half);
    tail |= i32((half & 0x7c00) == 0x7c00);
  }
  if (!v128.any_true(any) && !tail) return 0;
  let found = 0;
  for (let i = 0; i < count; i++) found += i32((load<u16>(target + (<usize>i << 1)) & 0x7c00) == 0x7c00);
  return found;
}

export function narrowF64(source: usize, target: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const value = load<f32>(source + (<usize>i << 2));
    const address = target + (<usize>i << 3);
    if (value != value) store<u64>(address, 0x7ff8000000000000);
    else store<f64>(address, <f64>value);
  }
  return countNonFinite(source, count);
}
