// core/schemes/rounding.ts: results rounded to the dtype of the weights, and scales stored in it.
import { floatsToHalves, halvesToFloats, roundToBF16 } from "./cast";
import { integerOne, magnitude } from "./constants";

/** What results round to, as the host numbers it. */
export const F32: i32 = 0;
export const BF16: i32 = 1;
export const F16: i32 = 2;

/** Nearest BF16, as float32. */
@inline function toBF16(value: v128): v128 {
  return v128.and(roundToBF16(value), i32x4.splat(<i32>0xffff0000));
}

/** Nearest F16, as float32. */
@inline function toF16(value: v128): v128 {
  const size = v128.and(value, magnitude());
  // From 2^-14 up to where rounding ends at infinity: one subtraction tells.
  const isNormal = i32x4.lt_u(i32x4.sub(size, i32x4.splat(0x38800000)), i32x4.splat(0x0efff000));
  if (!i32x4.all_true(isNormal)) return throughHalf(value);
  const odd = v128.and(i32x4.shr_u(value, 13), integerOne());
  return v128.and(i32x4.add(i32x4.add(value, i32x4.splat(0xfff)), odd), i32x4.splat(<i32>0xffffe000));
}

/** The same for zeros, subnormal and too large ones. */
function throughHalf(value: v128): v128 {
  return halvesToFloats(i32x4.shr_s(i32x4.shl(floatsToHalves(value), 16), 16));
}

@inline export function roundTo(dtype: i32, value: v128): v128 {
  return dtype == BF16 ? toBF16(value) : dtype == F16 ? toF16(value) : value;
}

@inline export function roundOne(dtype: i32, value: f32): f32 {
  return dtype == F32 ? value : f32x4.extract_lane(roundTo(dtype, f32x4.splat(value)), 0);
}

/** Distance from 1 to the next value: what a scale of zero becomes. */
@inline export function epsilonOf(dtype: i32): f32 {
  return dtype == BF16 ? 0.0078125 : dtype == F16 ? 0.0009765625 : 1.1920929e-7;
}

@inline export function scaleBytes(dtype: i32): usize {
  return dtype == F32 ? 4 : 2;
}

/** A scale that is a number of the dtype. */
@inline export function storeScale(dtype: i32, address: usize, scale: f32): void {
  if (dtype == BF16) store<u16>(address, <u16>(reinterpret<u32>(scale) >> 16));
  else if (dtype == F16) store<u16>(address, <u16>i32x4.extract_lane(floatsToHalves(f32x4.splat(scale)), 0));
  else store<f32>(address, scale);
}

@inline export function loadScale(dtype: i32, address: usize): f32 {
  if (dtype == BF16) return reinterpret<f32>(<u32>load<u16>(address) << 16);
  if (dtype == F16) return f32x4.extract_lane(halvesToFloats(i32x4.splat(<i32>load<i16>(address))), 0);
  return load<f32>(address);
}

/** largest / steps, rounded; epsilon instead of zero. */
@inline export function scaleOf(dtype: i32, largest: f32, steps: f32): f32 {
  const scale = roundOne(dtype, largest / steps);
  return scale == 0 ? epsilonOf(dtype) : scale;
}
