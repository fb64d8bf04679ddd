// core/schemes/search.ts: searchSigned and descendSigned of four sub-blocks side by side, for Q3_K and Q6_K, and Q4_0 and
// Q5_0 with an importance matrix.
import { L, nearInts, TAME_MAX, toBytes, W, WX, X } from "./quant-lanes";
import { ZERO_BELOW } from "./quant-positive";

/** What the search found, four lanes each: scale, the inverse scale that gives the codes, and whether all are zero. */
export const SIGNED: usize = memory.data(48, 16);
export const SIGNED_INVERSE: usize = SIGNED + 16;
export const SIGNED_ZERO: usize = SIGNED + 32;

/** The value of largest magnitude in each lane of X, with its sign; the first one wins. */
@inline function extremes(end: usize): v128 {
  let largest = f32x4.splat(0);
  let extreme = f32x4.splat(0);
  for (let i: usize = 0; i < end; i += 16) {
    const x = v128.load(X + i);
    const magnitude = f32x4.abs(x);
    const isLarger = f32x4.gt(magnitude, largest);
    largest = v128.bitselect(magnitude, largest, isLarger);
    extreme = v128.bitselect(x, extreme, isLarger);
  }
  return extreme;
}

/** Rounding after clamping is clamping after rounding. */
@inline function codesOf(inverse: v128, x: v128, low: v128, high: v128): v128 {
  return f32x4.nearest(f32x4.pmin(f32x4.pmax(f32x4.mul(inverse, x), low), high));
}

/** The inverse scale that `step` tenths of a code more give the extreme. */
@inline function candidate(nmax: f32, step: i32, extreme: v128): v128 {
  return f32x4.div(f32x4.splat(-(nmax + <f32>0.1 * <f32>step)), extreme);
}

/** Searches the lanes of X under the weights in W. Returns 1 when the oracle must do it. */
export function searchSigned(n: i32, nmax: f32): i32 {
  const end = <usize>n << 4;
  const low = f32x4.splat(-nmax);
  const high = f32x4.splat(nmax - 1);
  let extreme = extremes(end);
  const magnitude = f32x4.abs(extreme);
  if (v128.any_true(f32x4.gt(magnitude, f32x4.splat(TAME_MAX)))) return 1;
  const isZero = f32x4.lt(magnitude, f32x4.splat(ZERO_BELOW));
  extreme = v128.bitselect(f32x4.splat(1), extreme, isZero);
  let inverse = f32x4.div(low, extreme);
  let sumLx = f32x4.splat(0);
  let sumL2 = f32x4.splat(0);
  for (let i: usize = 0; i < end; i += 16) {
    const x = v128.load(X + i);
    const w = v128.load(W + i);
    const l = codesOf(inverse, x, low, high);
    const wx = f32x4.mul(w, x);
    v128.store(WX + i, wx);
    sumLx = f32x4.add(sumLx, f32x4.mul(wx, l));
    sumL2 = f32x4.add(sumL2, f32x4.mul(f32x4.mul(w, l), l));
  }
  let scale = v128.andnot(f32x4.div(sumLx, sumL2), f32x4.eq(sumL2, f32x4.splat(0)));
  let best = f32x4.mul(scale, sumLx);
  // Candidates do not depend on each other: two at a time, then each judged in its turn.
  for (let pair = 0; pair < 9; pair++) {
    const step = pair < 5 ? 2 * pair - 9 : 2 * pair - 8;
    const inverse0 = candidate(nmax, step, extreme);
    const inverse1 = candidate(nmax, step == -1 ? 1 : step + 1, extreme);
    let sumLx0 = f32x4.splat(0);
    let sumL20 = f32x4.splat(0);
    let sumLx1 = f32x4.splat(0);
    let sumL21 = f32x4.splat(0);
    for (let i: usize = 0; i < end; i += 16) {
      const x = v128.load(X + i);
      const w = v128.load(W + i);
      const wx = v128.load(WX + i);
      const l0 = codesOf(inverse0, x, low, high);
      const l1 = codesOf(inverse1, x, low, high);
      sumLx0 = f32x4.add(sumLx0, f32x4.mul(wx, l0));
      sumLx1 = f32x4.add(sumLx1, f32x4.mul(wx, l1));
      sumL20 = f32x4.add(sumL20, f32x4.mul(f32x4.mul(w, l0), l0));
      sumL21 = f32x4.add(sumL21, f32x4.mul(f32x4.mul(w, l1), l1));
    }
    const isBetter0 = v128.and(
      f32x4.gt(sumL20, f32x4.splat(0)),
      f32x4.gt(f32x4.mul(sumLx0, sumLx0), f32x4.mul(best, sumL20)),
    );
    scale = v128.bitselect(f32x4.div(sumLx0, sumL20), scale, isBetter0);
    best = v128.bitselect(f32x4.mul(scale, sumLx0), best, isBetter0);
    inverse = v128.bitselect(inverse0, inverse, isBetter0);
    const isBetter1 = v128.and(
      f32x4.gt(sumL21, f32x4.splat(0)),
      f32x4.gt(f32x4.mul(sumLx1, sumLx1), f32x4.mul(best, sumL21)),
    );
    scale = v128.bitselect(f32x4.div(sumLx1, sumL21), scale, isBetter1);
    best = v128.bitselect(f32x4.mul(scale, sumLx1), best, isBetter1);
    inverse = v128.bitselect(inverse1, inverse, isBetter1);
  }
  v128.store(SIGNED, v128.andnot(scale, isZero));
  v128.store(SIGNED_INVERSE, inverse);
  v128.store(SIGNED_ZERO, isZero);
  return 0;
}

/**
 * Coordinate descent from the extreme's scale; leaves the codes, not offset, in L. Weights are in W. Returns 1 when the
 * oracle must do it.
 */
export function descendSigned(n: i32, nmax: i32): i32 {
  const end = <usize>n << 4;
  const low = i32x4.splat(-nmax);
  const high = i32x4.splat(nmax - 1);
  let extreme = extremes(end);
  const magnitude = f32x4.abs(extreme);
  if (v128.any_true(f32x4.gt(magnitude, f32x4.splat(TAME_MAX)))) return 1;
  const isZero = f32x4.lt(magnitude, f32x4.splat(ZERO_BELOW));
  extreme = v128.bitselect(f32x4.splat(1), extreme, isZero);
  const inverse = f32x4.div(f32x4.splat(-(<f32>nmax)), extreme);
  let sumLx = f32x4.splat(0);
  let sumL2 = f32x4.splat(0);
  for (let i: usize = 0; i < end; i += 16) {
    const x = v128.load(X + i);
    const w = v128.load(W + i);
    const l = codesOf(inverse, x, f32x4.splat(-(<f32>nmax)), f32x4.splat(<f32>(nmax - 1)));
    v128.store(L + i, l);
    sumLx = f32x4.add(sumLx, f32x4.mul(f32x4.mul(w, x), l));
    sumL2 = f32x4.add(sumL2, f32x4.mul(f32x4.mul(w, l), l));
  }
  for (let sweep = 0; sweep < 5; sweep++) {
    let changed = i32x4.splat(0);
    for (let i: usize = 0; i < end; i += 16) {
      const x = v128.load(X + i);
      const w = v128.load(W + i);
      const l = v128.load(L + i);
      const wx = f32x4.mul(w, x);
      const slx = f32x4.sub(sumLx, f32x4.mul(wx, l));
      const sl2 = f32x4.sub(sumL2, f32x4.mul(f32x4.mul(w, l), l));
      const to = f32x4.convert_i32x4_s(nearInts(f32x4.div(f32x4.mul(x, sl2), slx), low, high));
      const newLx = f32x4.add(slx, f32x4.mul(wx, to));
      const newL2 = f32x4.add(sl2, f32x4.mul(f32x4.mul(w, to), to));
      const moves = v128.and(f32x4.gt(slx, f32x4.splat(0)), f32x4.ne(to, l));
      const isBetter = v128.and(
        f32x4.gt(newL2, f32x4.splat(0)),
        f32x4.gt(f32x4.mul(f32x4.mul(newLx, newLx), sumL2), f32x4.mul(f32x4.mul(sumLx, sumLx), newL2)),
      );
      const accepted = v128.and(moves, isBetter);
      v128.store(L + i, v128.bitselect(to, l, accepted));
      sumLx = v128.bitselect(newLx, sumLx, accepted);
      sumL2 = v128.bitselect(newL2, sumL2, accepted);
      changed = v128.or(changed, accepted);
    }
    if (!v128.any_true(changed)) break;
  }
  const isSolved = f32x4.gt(sumL2, f32x4.splat(0));
  v128.store(SIGNED, v128.andnot(v128.and(f32x4.div(sumLx, sumL2), isSolved), isZero));
  v128.store(SIGNED_ZERO, isZero);
  return 0;
}

/** Sixteen codes from `s`, with their offset: near(x / step), or near(x inverse). */
@inline export function signedCodes16(s: usize, step: v128, divides: bool, half: i32): v128 {
  const low = i32x4.splat(-half);
  const high = i32x4.splat(half - 1);
  const offset = i32x4.splat(half);
  const a = divides ? f32x4.div(v128.load(s), step) : f32x4.mul(step, v128.load(s));
  const b = divides ? f32x4.div(v128.load(s, 16), step) : f32x4.mul(step, v128.load(s, 16));
  const c = divides ? f32x4.div(v128.load(s, 32), step) : f32x4.mul(step, v128.load(s, 32));
  const d = divides ? f32x4.div(v128.load(s, 48), step) : f32x4.mul(step, v128.load(s, 48));
  return toBytes(
    i32x4.add(nearInts(a, low, high), offset),
    i32x4.add(nearInts(b, low, high), offset),
    i32x4.add(nearInts(c, low, high), offset),
    i32x4.add(nearInts(d, low, high), offset),
  );
}
