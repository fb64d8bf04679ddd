// Results on their way out of a fused kernel, sixteen at a time: narrowed to the stored dtype as core/ops/cast.ts says.
// Whether all of a chunk were finite costs one sum of magnitudes; a chunk whose sum says no is narrowed again from
// float32, values counted one by one. The type parameter names the dtype as in stored.ts.
import { floatsToHalves, narrowBF16, narrowF16, narrowF32, roundToBF16 } from "./cast";

/** Elements whose magnitudes are summed together: few, so that the sum of ordinary weights is far below any limit. */
export const CHUNK: i32 = 1024;
/** A chunk in float32, for `narrowAgain`. */
export const WIDE: usize = memory.data(4096);

/** What a sum of weighted values becomes; `adds`: it is one of differences to `base`. */
@inline export function finish(
  sum: v128,
  base: v128,
  adds: bool,
  divides: bool,
  divisor: v128,
  multiplies: bool,
  factor: v128,
): v128 {
  if (divides) sum = f32x4.div(sum, divisor);
  if (multiplies) sum = f32x4.mul(sum, factor);
  return adds ? f32x4.add(base, sum) : sum;
}

@inline export function addMagnitudes(sum: v128, v0: v128, v1: v128, v2: v128, v3: v128): v128 {
  const first = f32x4.add(f32x4.abs(v0), f32x4.abs(v1));
  return f32x4.add(f32x4.add(sum, first), f32x4.add(f32x4.abs(v2), f32x4.abs(v3)));
}

/** True only if every magnitude that was added is finite, and stays so when it is narrowed. */
@inline export function areFinite<T>(sum: v128): bool {
  const limit: f32 = isFloat<T>() ? f32.MAX_VALUE : isSigned<T>() ? 65504 : 3.3e38;
  return i32x4.all_true(f32x4.lt(sum, f32x4.splat(limit)));
}

/** Stores sixteen values at `target`, one after the other; right for all but NaN. */
@inline export function storeGroup<T>(target: usize, v0: v128, v1: v128, v2: v128, v3: v128): void {
  if (isFloat<T>()) {
    v128.store(target, v0);
    v128.store(target, v1, 16);
    v128.store(target, v2, 32);
    v128.store(target, v3, 48);
  } else {
    v128.store(target, halves<T>(v0, v1));
    v128.store(target, halves<T>(v2, v3), 16);
  }
}

/**
 * Eight values, even ones and odd ones, as BF16; right for all but NaN. `half` and `one` are `bf16Half()` and
 * `integerOne()`, which loops keep.
 */
@inline export function joinBF16(even: v128, odd: v128, half: v128, one: v128): v128 {
  const low = i32x4.add(i32x4.add(even, half), v128.and(i32x4.shr_u(even, 16), one));
  const high = i32x4.add(i32x4.add(odd, half), v128.and(i32x4.shr_u(odd, 16), one));
  return v128.shuffle<u16>(i32x4.shr_u(low, 16), high, 0, 9, 2, 11, 4, 13, 6, 15);
}

/** The largest magnitudes of BF16 so far, twice each. A NaN that comes of BF16 stays one when it is joined. */
@inline export function addLargest(largest: v128, eight: v128): v128 {
  return i16x8.max_u(largest, i16x8.shl(eight, 1));
}

/** True only if all of them are finite. */
@inline export function isLargestFinite(largest: v128): bool {
  return !v128.any_true(i16x8.ge_u(largest, i16x8.splat(<i16>0xff00)));
}

@inline function halves<T>(low: v128, high: v128): v128 {
  if (isSigned<T>()) {
    return v128.shuffle<u16>(floatsToHalves(low), floatsToHalves(high), 0, 2, 4, 6, 8, 10, 12, 14);
  }
  return v128.shuffle<u16>(roundToBF16(low), roundToBF16(high), 1, 3, 5, 7, 9, 11, 13, 15);
}

/** Narrows the chunk in WIDE; returns how many of its `count` values are not finite. */
export function narrowAgain<T>(target: usize, count: i32): i32 {
  if (isFloat<T>()) return narrowF32(WIDE, target, count);
  return isSigned<T>() ? narrowF16(WIDE, target, count) : narrowBF16(WIDE, target, count);
}
