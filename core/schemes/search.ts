// Searches for the scale (and minimum) of a block that loses least, shared by the block schemes. Notation of the
// reference: x values, w weights, l codes; S(...) sums in order, every operation rounded to float32.
// Source: ggml quantization functions; quantization reference sections 3.1 and 3.2.
import { nearestWithin } from "./bits.ts";

const f = Math.fround;
const TENTH = f(0.1);

/** Blocks whose largest magnitude is below this are zero. */
export const ZERO_BELOW = f(1e-15);

/** The value of largest magnitude with its sign; the first one wins. */
export function signedExtreme(x: Float32Array, at: number, n: number): number {
  let largest = 0;
  let extreme = 0;
  for (let i = at; i < at + n; i++) {
    const value = x[i] ?? 0;
    if (Math.abs(value) > largest) {
      largest = Math.abs(value);
      extreme = value;
    }
  }
  return extreme;
}

/** S(x x), in order. */
export function sumOfSquares(x: Float32Array, at: number, n: number): number {
  let sum = 0;
  for (let i = at; i < at + n; i++) {
    const value = x[i] ?? 0;
    sum = f(sum + f(value * value));
  }
  return sum;
}

/** w_i = importance_i sqrt(sigma2 + x_i^2) for `n` elements from `at`; returns S(w). */
export function weighByImportance(
  x: Float32Array,
  importance: Float32Array,
  at: number,
  sigma2: number,
  weights: Float32Array,
  n: number,
): number {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const value = x[at + i] ?? 0;
    const root = f(Math.sqrt(f(sigma2 + f(value * value))));
    const weight = f((importance[at + i] ?? 0) * root);
    weights[i] = weight;
    sum = f(sum + weight);
  }
  return sum;
}

/** w_i = x_i^2 for `n` elements from `at`. */
export function weighBySquare(x: Float32Array, at: number, weights: Float32Array, n: number): void {
  for (let i = 0; i < n; i++) {
    const value = x[at + i] ?? 0;
    weights[i] = f(value * value);
  }
}

/**
 * Signed scale: minimizes S(w (x - scale l)^2) over 19 candidates, l in [-nmax, nmax). Codes written to `codes` from
 * `to` are l + nmax; a block of zeros has scale 0 and codes 0. Returns the scale.
 */
export function searchSigned(
  n: number,
  nmax: number,
  x: Float32Array,
  at: number,
  w: Float32Array,
  codes: Uint8Array,
  to: number,
): number {
  const extreme = signedExtreme(x, at, n);
  if (Math.abs(extreme) < ZERO_BELOW) {
    codes.fill(0, to, to + n);
    return 0;
  }
  let chosen = 0;
  let scale = 0;
  let best = 0;
  let iscale = f(-nmax / extreme);
  for (let step = -10; step <= 9; step++) {
    // Step -10 stands for the start, at which the extreme takes code -nmax.
    if (step === 0) continue;
    const candidate = step === -10 ? iscale : f(-f(nmax + f(TENTH * step)) / extreme);
    let sumLx = 0;
    let sumL2 = 0;
    for (let i = 0; i < n; i++) {
      const value = x[at + i] ?? 0;
      const l = nearestWithin(f(candidate * value), -nmax, nmax - 1);
      const weight = w[i] ?? 0;
      sumLx = f(sumLx + f(f(weight * value) * l));
      sumL2 = f(sumL2 + f(f(weight * l) * l));
    }
    if (step === -10) {
      scale = sumL2 === 0 ? 0 : f(sumLx / sumL2);
      best = f(scale * sumLx);
    } else if (sumL2 > 0 && f(sumLx * sumLx) > f(best * sumL2)) {
      scale = f(sumLx / sumL2);
      best = f(scale * sumLx);
      chosen = step;
    }
  }
  if (chosen !== 0) iscale = f(-f(nmax + f(TENTH * chosen)) / extreme);
  for (let i = 0; i < n; i++) {
    codes[to + i] = nearestWithin(f(iscale * (x[at + i] ?? 0)), -nmax, nmax - 1) + nmax;
  }
  return scale;
}

/** Codes while a descent moves them: signed. */
const moving = new Int32Array(32);

/**
 * Up to five sweeps of coordinate descent over `moving`: each code moves where that raises S(wxl)^2 / S(wll). Returns
 * S(wxl) / S(wll).
 */
function descend(n: number, x: Float32Array, at: number, w: Float32Array, low: number, high: number): number {
  const isSigned = low < 0;
  let sumLx = 0;
  let sumL2 = 0;
  for (let i = 0; i < n; i++) {
    const value = x[at + i] ?? 0;
    const weight = w[i] ?? 0;
    const l = moving[i] ?? 0;
    sumLx = f(sumLx + f(f(weight * value) * l));
    sumL2 = f(sumL2 + f(f(weight * l) * l));
  }
  for (let sweep = 0; sweep < 5; sweep++) {
    let changed = 0;
    for (let i = 0; i < n; i++) {
      const value = x[at + i] ?? 0;
      const weight = w[i] ?? 0;
      const l = moving[i] ?? 0;
      let slx = f(sumLx - f(f(weight * value) * l));
      let sl2 = f(sumL2 - f(f(weight * l) * l));
      if (!(slx > 0) || !(isSigned || sl2 > 0)) continue;
      const to = nearestWithin(f(f(value * sl2) / slx), low, high);
      if (to === l) continue;
      slx = f(slx + f(f(weight * value) * to));
      sl2 = f(sl2 + f(f(weight * to) * to));
      if (sl2 > 0 && f(f(slx * slx) * sumL2) > f(f(sumLx * sumLx) * sl2)) {
        moving[i] = to;
        sumLx = slx;
        sumL2 = sl2;
        changed++;
      }
    }
    if (changed === 0) break;
  }
  return sumL2 > 0 ? f(sumLx / sumL2) : 0;
}

/** As `searchSigned` with w = x^2, but by coordinate descent from the extreme's scale. */
export function descendSigned(
  n: number,
  nmax: number,
  x: Float32Array,
  at: number,
  w: Float32Array,
  codes: Uint8Array,
  to: number,
): number {
  const extreme = signedExtreme(x, at, n);
  if (Math.abs(extreme) < ZERO_BELOW) {
    codes.fill(0, to, to + n);
    return 0;
  }
  const iscale = f(-nmax / extreme);
  for (let i = 0; i < n; i++) moving[i] = nearestWithin(f(iscale * (x[at + i] ?? 0)), -nmax, nmax - 1);
  const scale = descend(n, x, at, w, -nmax, nmax - 1);
  for (let i = 0; i < n; i++) codes[to + i] = (moving[i] ?? 0) + nmax;
  return scale;
}

/** Codes 0..nmax and a scale for values x >= 0, weighted by w: nine candidates, then coordinate descent. */
export function searchPositive(n: number, nmax: number, x: Float32Array, w: Float32Array, codes: Uint8Array): number {
  let max = 0;
  for (let i = 0; i < n; i++) max = Math.max(max, x[i] ?? 0);
  if (max < ZERO_BELOW) {
    codes.fill(0, 0, n);
    return 0;
  }
  const error = (iscale: number): number => {
    const scale = f(1 / iscale);
    let sum = 0;
    for (let i = 0; i < n; i++) {
      const value = x[i] ?? 0;
      const difference = f(value - f(scale * nearestWithin(f(iscale * value), LOWEST, nmax)));
      sum = f(sum + f(f((w[i] ?? 0) * difference) * difference));
    }
    return sum;
  };
  let iscale = f(nmax / max);
  let best = error(iscale);
  for (let step = -4; step <= 4; step++) {
    if (step === 0) continue;
    const candidate = f(f(f(TENTH * step) + nmax) / max);
    const found = error(candidate);
    if (found < best) {
      best = found;
      iscale = candidate;
    }
  }
  for (let i = 0; i < n; i++) moving[i] = nearestWithin(f(iscale * (x[i] ?? 0)), LOWEST, nmax);
  const scale = descend(n, x, 0, w, 0, nmax);
  for (let i = 0; i < n; i++) codes[i] = moving[i] ?? 0;
  return scale;
}

/** Of values >= 0 the codes have no lower clamp. */
const LOWEST = -(2 ** 31);

export type AffineSearch = {
  readonly n: number;
  readonly nmax: number;
  /** Candidates: nmax + first + delta s, s = 0..steps. */
  readonly first: number;
  readonly delta: number;
  readonly steps: number;
  /** The error sums |difference| instead of its square. */
  readonly isAbsolute: boolean;
};

/** What the affine search with weights of an importance matrix tries, in every scheme. */
export function importanceSearch(n: number, nmax: number): AffineSearch {
  return { n, nmax, first: f(-0.9), delta: f(0.05), steps: 36, isAbsolute: false };
}

/** The last search's minimum, negated: >= 0. */
export const found = { minimum: 0 };
const trial = new Uint8Array(32);

/**
 * Affine scale and minimum <= 0 (x ~ scale l + minimum, l in 0..nmax) by weighted least squares over the candidates.
 * Returns the scale and leaves the negated minimum in `found.minimum`; codes go to `codes` from `to`.
 */
export function searchAffine(
  search: AffineSearch,
  x: Float32Array,
  at: number,
  w: Float32Array,
  codes: Uint8Array,
  to: number,
): number {
  const { n, nmax, first, delta, steps } = search;
  let min = x[at] ?? 0;
  let max = x[at] ?? 0;
  let sumW = w[0] ?? 0;
  let sumX = f((w[0] ?? 0) * (x[at] ?? 0));
  for (let i = 1; i < n; i++) {
    const value = x[at + i] ?? 0;
    const weight = w[i] ?? 0;
    if (value < min) min = value;
    if (value > max) max = value;
    sumW = f(sumW + weight);
    sumX = f(sumX + f(weight * value));
  }
  if (min > 0) min = 0;
  if (max <= min) {
    codes.fill(0, to, to + n);
    found.minimum = -min;
    return 0;
  }
  const start = f(nmax / f(max - min));
  let scale = f(1 / start);
  for (let i = 0; i < n; i++) trial[i] = nearestWithin(f(start * f((x[at + i] ?? 0) - min)), 0, nmax);
  let best = affineError(search, x, at, w, scale, min);
  for (let i = 0; i < n; i++) codes[to + i] = trial[i] ?? 0;
  for (let step = 0; step <= steps; step++) {
    const iscale = f(f(f(first + f(delta * step)) + nmax) / f(max - min));
    let sumL = 0;
    let sumL2 = 0;
    let sumXl = 0;
    for (let i = 0; i < n; i++) {
      const value = x[at + i] ?? 0;
      const weight = w[i] ?? 0;
      const l = nearestWithin(f(iscale * f(value - min)), 0, nmax);
      trial[i] = l;
      const product = f(weight * l);
      sumL = f(sumL + product);
      sumL2 = f(sumL2 + f(product * l));
      sumXl = f(sumXl + f(product * value));
    }
    const divisor = f(f(sumW * sumL2) - f(sumL * sumL));
    if (!(divisor > 0)) continue;
    let thisScale = f(f(f(sumW * sumXl) - f(sumX * sumL)) / divisor);
    let thisMin = f(f(f(sumL2 * sumX) - f(sumL * sumXl)) / divisor);
    if (thisMin > 0) {
      thisMin = 0;
      thisScale = f(sumXl / sumL2);
    }
    const error = affineError(search, x, at, w, thisScale, thisMin);
    if (!(error < best)) continue;
    for (let i = 0; i < n; i++) codes[to + i] = trial[i] ?? 0;
    best = error;
    scale = thisScale;
    min = thisMin;
  }
  found.minimum = -min;
  return scale;
}

/** S(w (scale l + min - x)^2) of the trial codes, or of |difference|. */
function affineError(
  { n, isAbsolute }: AffineSearch,
  x: Float32Array,
  at: number,
  w: Float32Array,
  scale: number,
  min: number,
): number {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const difference = f(f(f(scale * (trial[i] ?? 0)) + min) - (x[at + i] ?? 0));
    const term = isAbsolute ? Math.abs(difference) : f(difference * difference);
    sum = f(sum + f((w[i] ?? 0) * term));
  }
  return sum;
}
