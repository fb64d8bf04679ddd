// Stored values as float32, eight at a time. The type parameter names the stored dtype: u16 = BF16, i16 = F16, f32 =
// F32. Eight values are the halves of one vector (16-bit dtypes) or two vectors (F32); with `rest` for the second one,
// code that works on eight is the same for all three.
import { halvesToFloats } from "./cast";

@inline export function isBF16<T>(): bool {
  return !isFloat<T>() && !isSigned<T>();
}

/** The second vector of eight values whose first vector, at `address`, is `first`. */
@inline export function rest<T>(address: usize, first: v128): v128 {
  if (isFloat<T>()) return v128.load(address, 16);
  return first;
}

/** Values 0 to 3 of eight, from the first vector. */
@inline export function lower<T>(first: v128): v128 {
  if (isFloat<T>()) return first;
  if (isSigned<T>()) return halvesToFloats(i32x4.extend_low_i16x8_s(first));
  return v128.shuffle<u16>(i16x8.splat(0), first, 0, 8, 1, 9, 2, 10, 3, 11);
}

/** Values 4 to 7 of eight, from the second vector. */
@inline export function upper<T>(second: v128): v128 {
  if (isFloat<T>()) return second;
  if (isSigned<T>()) return halvesToFloats(i32x4.extend_high_i16x8_s(second));
  return v128.shuffle<u16>(i16x8.splat(0), second, 4, 12, 5, 13, 6, 14, 7, 15);
}

/** One stored value as float32. */
@inline export function one<T>(address: usize): f32 {
  if (isFloat<T>()) return load<f32>(address);
  if (isSigned<T>()) return f32x4.extract_lane(halvesToFloats(i32x4.splat(<i32>load<i16>(address))), 0);
  return reinterpret<f32>(<u32>load<u16>(address) << 16);
}

/** Values 0, 2, 4 and 6 of eight of BF16. Taking every other one is cheaper than taking four and four. */
@inline export function even(eight: v128): v128 {
  return i32x4.shl(eight, 16);
}

/** Values 1, 3, 5 and 7; `uppers` is `upperHalves()`. */
@inline export function odd(eight: v128, uppers: v128): v128 {
  return v128.and(eight, uppers);
}
