// How parameters compete within and between task vectors (PCB-Merging), one model at a time: the meaning of the
// operations, in plain TypeScript. Exponential and hyperbolic tangent are built from +, -, *, / and bit patterns, each
// step rounded to float32, so that every machine gives the same bits.
// Source: merge reference section 8.2.
import type { Tile } from "./memory.ts";

/** Sums of scores below this divide as this. Source: merge reference section 8.2 step 5. */
const SCORES_FLOOR = 1e-12;

/** A closed range of float32 numbers. */
export type Range = { readonly low: number; readonly high: number };

/** One model's part in the result of a tile. */
export type Competitor = {
  readonly model: Tile;
  readonly base: Tile;
  readonly scores: Tile;
  readonly magnitudes: Range;
  readonly places: Range;
  readonly factor: number;
};

export type Competition = {
  /**
   * target[i] = sign(D) fl(fl(A - low) / fl(high - low)), A = |D| within the range, D = fl(a[i] - base[i]): the place
   * of a magnitude in its range, with the sign of the difference. 0 where the range is a point.
   */
  writePlaces(target: Tile, a: Tile, base: Tile, range: Range, count: number): void;
  /** target[i] += tanh(fl(a[i] b[i])). */
  addTanh(target: Tile, a: Tile, b: Tile, count: number): void;
  /** target[i] = fl(exp(fl(factor fl(a[i] a[i]))) target[i]). */
  scaleExp(target: Tile, a: Tile, factor: number, count: number): void;
  /** target[i] = max(fl(a[i] factor), 0). */
  writePositive(target: Tile, a: Tile, factor: number, count: number): void;
  /** The largest value, -Infinity of none; NaN when one is NaN. */
  findLargest(a: Tile, count: number): number;
  /**
   * Adds one model: s = fl(fl(max(score, low) - low) / fl(high - low)) of `places`, 0 where that range is a point;
   * sum[i] += fl(fl(factor C) s), C = sign(D) A, A = |D| within `magnitudes`; weights[i] += s.
   */
  addCompetitor(sum: Tile, weights: Tile, competitor: Competitor, count: number): void;
  /** target[i] = base[i] + fl(sum[i] / max(weights[i], 1e-12)). `target` may be one of the sums. */
  finishCompetition(target: Tile, sum: Tile, weights: Tile, base: Tile, count: number): void;
};

const { fround } = Math;

/** Scratch for making a power of two. */
const word = new Int32Array(1);
const float = new Float32Array(word.buffer);

const LOG2E = fround(Math.LOG2E);
/** ln 2 in two parts: the first has few enough bits that its products with whole numbers up to 127 are exact. */
const LN2_HIGH = 0.693359375;
const LN2_LOW = fround(Math.LN2 - LN2_HIGH);
/** Beyond these the result is the one there: no overflow, no subnormal. */
const EXP_LEAST = -87;
const EXP_MOST = 88;
/** 1/n! in float32, from 9 down to 2. */
const FACTORIALS = [362880, 40320, 5040, 720, 120, 24, 6, 2].map((n) => fround(1 / n));
/** Below this tanh comes from the series of exp(2x) - 1, which keeps its relative error small. */
const TANH_SMALL = fround(0.35);
/** tanh of this is 1 in float32. */
const TANH_MOST = 10;

/** exp(r) - 1 for |r| <= 0.7: r + r^2 (1/2! + r (1/3! + ... + r / 9!)). */
function expSeries(r: number): number {
  const sum = FACTORIALS.reduce((rest, term) => fround(fround(rest * r) + term), 0);
  return fround(r + fround(fround(r * r) * sum));
}

/**
 * e^x in float32, within 2 units in the last place; x is first brought into [-87, 88]. Method: x = k ln 2 + r, the
 * series of e^r, times 2^k.
 */
function exponential32(x: number): number {
  const bounded = Math.min(Math.max(x, EXP_LEAST), EXP_MOST);
  const k = Math.floor(fround(fround(bounded * LOG2E) + 0.5));
  const r = fround(fround(bounded - fround(k * LN2_HIGH)) - fround(k * LN2_LOW));
  word[0] = (k + 127) << 23;
  return fround(fround(1 + expSeries(r)) * (float[0] ?? 0));
}

/** tanh(x) in float32, within 3 units in the last place. */
function tanh32(x: number): number {
  const magnitude = Math.min(Math.abs(x), TANH_MOST);
  const double = fround(magnitude + magnitude);
  const small = magnitude < TANH_SMALL;
  const less = expSeries(small ? double : 0);
  const near = fround(less / fround(less + 2));
  const far = fround(1 - fround(2 / fround(exponential32(double) + 1)));
  const result = small ? near : far;
  return x < 0 ? -result : result;
}

/** Element of a tile; the caller's index is below the tile's length. */
function at({ values }: Tile, index: number): number {
  return values[index] ?? 0;
}

/** What a distance from the low end is divided by; a range that is a point has no places but 0. */
function widthOf({ low, high }: Range): number {
  const width = fround(fround(high) - fround(low));
  return width === 0 ? Number.POSITIVE_INFINITY : width;
}

function within(value: number, { low, high }: Range): number {
  return Math.min(Math.max(value, fround(low)), fround(high));
}

/** value with the sign of another; 0 of 0. */
function withSign(value: number, sign: number): number {
  return sign > 0 ? value : sign < 0 ? -value : 0;
}

export const scalarCompetition: Competition = Object.freeze({
  writePlaces(target, a, base, range, count) {
    const [low, width] = [fround(range.low), widthOf(range)];
    for (let i = 0; i < count; i++) {
      const delta = fround(at(a, i) - at(base, i));
      const place = fround(fround(within(Math.abs(delta), range) - low) / width);
      target.values[i] = withSign(place, delta);
    }
  },
  addTanh(target, a, b, count) {
    for (let i = 0; i < count; i++) target.values[i] = at(target, i) + tanh32(fround(at(a, i) * at(b, i)));
  },
  scaleExp(target, a, factor, count) {
    for (let i = 0; i < count; i++) {
      const power = exponential32(fround(fround(factor) * fround(at(a, i) * at(a, i))));
      target.values[i] = power * at(target, i);
    }
  },
  writePositive(target, a, factor, count) {
    for (let i = 0; i < count; i++) target.values[i] = Math.max(fround(at(a, i) * fround(factor)), 0);
  },
  findLargest(a, count) {
    return a.values.subarray(0, count).reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  },
  addCompetitor(sum, weights, { model, base, scores, magnitudes, places, factor }, count) {
    const [low, width] = [fround(places.low), widthOf(places)];
    for (let i = 0; i < count; i++) {
      const delta = fround(at(model, i) - at(base, i));
      const clamped = withSign(within(Math.abs(delta), magnitudes), delta);
      const score = fround(fround(Math.max(at(scores, i), low) - low) / width);
      sum.values[i] = at(sum, i) + fround(fround(fround(factor) * clamped) * score);
      weights.values[i] = at(weights, i) + score;
    }
  },
  finishCompetition(target, sum, weights, base, count) {
    const floor = fround(SCORES_FLOOR);
    for (let i = 0; i < count; i++) {
      target.values[i] = at(base, i) + fround(at(sum, i) / Math.max(at(weights, i), floor));
    }
  },
} satisfies Competition);
