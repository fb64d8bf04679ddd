// core/schemes/search.ts: searchAffine of four sub-blocks side by side, for Q2_K, Q4_K, Q5_K, and Q4_1 and Q5_1 with an
// importance matrix.
import { L, nearInts, TAME_MAX, TAME_MIN, toBytes, W, X } from "./quant-lanes";

/**
 * What the search found, four lanes each: scale, negated minimum, and the inverse scale and minimum that give the
 * codes: near(inverse (x - origin)), 0 to nmax. A flat sub-block has both 0, and so its codes.
 */
export const FOUND: usize = memory.data(64, 16);
export const FOUND_MINIMUM: usize = FOUND + 16;
export const FOUND_INVERSE: usize = FOUND + 32;
export const FOUND_ORIGIN: usize = FOUND + 48;

/** A minimum may lie this many ranges from the least value; beyond, codes could leave the integers of float32. */
const RANGES_MAX: f32 = 65536;

/** S(w (scale l + min - x)^2) of the codes in L, or of |difference|. */
@inline function errorOf(isAbsolute: bool, end: usize, scale: v128, min: v128): v128 {
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < end; i += 16) {
    const difference = f32x4.sub(f32x4.add(f32x4.mul(scale, v128.load(L + i)), min), v128.load(X + i));
    const term = isAbsolute ? f32x4.abs(difference) : f32x4.mul(difference, difference);
    sum = f32x4.add(sum, f32x4.mul(v128.load(W + i), term));
  }
  return sum;
}

/** Codes 0 to nmax: rounding after clamping is clamping after rounding. */
@inline function codesOf(inverse: v128, x: v128, min: v128, most: v128): v128 {
  const scaled = f32x4.mul(inverse, f32x4.sub(x, min));
  return f32x4.nearest(f32x4.pmin(f32x4.pmax(scaled, f32x4.splat(0)), most));
}

/** Lanes whose codes may not be what `codesOf` says. */
@inline function isWild(range: v128, min: v128, least: v128): bool {
  const tame = v128.and(
    v128.and(f32x4.ge(range, f32x4.splat(TAME_MIN)), f32x4.le(range, f32x4.splat(TAME_MAX))),
    f32x4.le(f32x4.sub(min, least), f32x4.mul(range, f32x4.splat(RANGES_MAX))),
  );
  return !i32x4.all_true(tame);
}

/**
 * Searches the lanes of X under the weights in W: candidates nmax + first + delta s, s = 0..steps. Returns 1 when the
 * oracle must do it.
 */
@inline function search(isAbsolute: bool, n: i32, nmax: f32, first: f32, delta: f32, steps: i32): i32 {
  const end = <usize>n << 4;
  const most = f32x4.splat(nmax);
  let x = v128.load(X);
  let least = x;
  let max = x;
  let sumW = v128.load(W);
  let sumX = f32x4.mul(sumW, x);
  for (let i: usize = 16; i < end; i += 16) {
    x = v128.load(X + i);
    const w = v128.load(W + i);
    least = f32x4.pmin(least, x);
    max = f32x4.pmax(max, x);
    sumW = f32x4.add(sumW, w);
    sumX = f32x4.add(sumX, f32x4.mul(w, x));
  }
  let min = f32x4.pmin(least, f32x4.splat(0));
  const flat = f32x4.le(max, min);
  // Flat lanes search a range of one, so that they do not look wild, and change nothing.
  max = v128.bitselect(f32x4.add(min, f32x4.splat(1)), max, flat);
  let range = f32x4.sub(max, min);
  if (isWild(v128.bitselect(f32x4.splat(1), range, flat), min, v128.bitselect(min, least, flat))) return 1;
  let inverse = f32x4.div(most, range);
  let scale = f32x4.div(f32x4.splat(1), inverse);
  let origin = min;
  for (let i: usize = 0; i < end; i += 16) v128.store(L + i, codesOf(inverse, v128.load(X + i), min, most));
  let best = errorOf(isAbsolute, end, scale, min);
  for (let step = 0; step <= steps; step++) {
    range = f32x4.sub(max, min);
    const candidate = f32x4.div(f32x4.splat(first + delta * <f32>step + nmax), range);
    let sumL = f32x4.splat(0);
    let sumL2 = f32x4.splat(0);
    let sumXl = f32x4.splat(0);
    for (let i: usize = 0; i < end; i += 16) {
      const value = v128.load(X + i);
      const l = codesOf(candidate, value, min, most);
      v128.store(L + i, l);
      const product = f32x4.mul(v128.load(W + i), l);
      sumL = f32x4.add(sumL, product);
      sumL2 = f32x4.add(sumL2, f32x4.mul(product, l));
      sumXl = f32x4.add(sumXl, f32x4.mul(product, value));
    }
    const divisor = f32x4.sub(f32x4.mul(sumW, sumL2), f32x4.mul(sumL, sumL));
    const scaleAbove = f32x4.sub(f32x4.mul(sumW, sumXl), f32x4.mul(sumX, sumL));
    const minAbove = f32x4.sub(f32x4.mul(sumL2, sumX), f32x4.mul(sumL, sumXl));
    let thisScale = f32x4.div(scaleAbove, divisor);
    let thisMin = f32x4.div(minAbove, divisor);
    const isPositive = f32x4.gt(thisMin, f32x4.splat(0));
    thisMin = v128.andnot(thisMin, isPositive);
    thisScale = v128.bitselect(f32x4.div(sumXl, sumL2), thisScale, isPositive);
    const error = errorOf(isAbsolute, end, thisScale, thisMin);
    const isSolved = f32x4.gt(divisor, f32x4.splat(0));
    const accepted = v128.andnot(v128.and(isSolved, f32x4.lt(error, best)), flat);
    if (!v128.any_true(accepted)) continue;
    best = v128.bitselect(error, best, accepted);
    scale = v128.bitselect(thisScale, scale, accepted);
    inverse = v128.bitselect(candidate, inverse, accepted);
    origin = v128.bitselect(min, origin, accepted);
    min = v128.bitselect(thisMin, min, accepted);
    const next = v128.bitselect(f32x4.splat(1), f32x4.sub(max, min), flat);
    if (isWild(next, min, v128.bitselect(min, least, flat))) return 1;
  }
  v128.store(FOUND, v128.andnot(scale, flat));
  v128.store(FOUND_MINIMUM, f32x4.neg(min));
  v128.store(FOUND_INVERSE, v128.andnot(inverse, flat));
  v128.store(FOUND_ORIGIN, v128.andnot(origin, flat));
  return 0;
}

/** Errors are squares. */
export function searchAffine(n: i32, nmax: f32, first: f32, delta: f32, steps: i32): i32 {
  return search(false, n, nmax, first, delta, steps);
}

/** Errors are magnitudes. */
export function searchAffineAbsolute(n: i32, nmax: f32, first: f32, delta: f32, steps: i32): i32 {
  return search(true, n, nmax, first, delta, steps);
}

/** The candidates with an importance matrix. */
export function searchAffineWeighted(n: i32, nmax: f32): i32 {
  return search(false, n, nmax, -0.9, 0.05, 36);
}

/** Sixteen codes from `s`, as a search chose them. */
export function foundCodes16(s: usize, inverse: v128, origin: v128, most: v128): v128 {
  const zero = i32x4.splat(0);
  return toBytes(
    nearInts(f32x4.mul(inverse, f32x4.sub(v128.load(s), origin)), zero, most),
    nearInts(f32x4.mul(inverse, f32x4.sub(v128.load(s, 16), origin)), zero, most),
    nearInts(f32x4.mul(inverse, f32x4.sub(v128.load(s, 32), origin)), zero, most),
    nearInts(f32x4.mul(inverse, f32x4.sub(v128.load(s, 48), origin)), zero, most),
  );
}
