// Variance over models, and sums of the values that agree in sign, one model at a time so that any number of models
// takes the same memory: the meaning of the operations, in plain TypeScript. D = fl(a[i] - base[i]).
import { bitAt } from "./deltas.ts";
import { type Block, doublesOf, type Tile } from "./memory.ts";

/** Sums of weights below this divide as this. Source: merge reference section 4.11 step 5. */
export const WEIGHTS_FLOOR = 1e-6;

/** Bit bitOffset + i says whether element i is kept; bit offsets are multiples of BIT_GROUP. */
export type MarkedBits = { readonly bits: Block; readonly bitOffset: number };

/** Sums of one tile while models are added. */
export type Moments = {
  /** float64 values: means, and sums of squared distances to them. */
  readonly means: Block;
  readonly squares: Block;
};

export type Consensus = {
  /**
   * Adds D of the `ordinal`-th model, from 1 on, by Welford's rule in float64: e = D - mean; mean += e / ordinal;
   * square += e (D - mean). Ordinal 1 clears what was there.
   */
  addMoments(moments: Moments, a: Tile, base: Tile, ordinal: number, count: number): void;
  /** target[i] = float32(square / models): the population variance. */
  writeVariance(target: Tile, moments: Moments, models: number, count: number): void;
  /** target[i] = target[i] + fl(D mark), mark 0 or 1: NaN and infinity stay visible. */
  addMarked(target: Tile, a: Tile, base: Tile, marks: MarkedBits, count: number): void;
  /**
   * Where V = fl(D mark) has the sign of the majority (+ where majority[i] >= 0, else -; zero and NaN have neither):
   * sum[i] += fl(V weight), weights[i] += weight; elsewhere both products are multiplied by 0 first.
   */
  addElected(elected: Elected, a: Tile, base: Tile, marks: MarkedBits, weight: number, count: number): void;
  /** target[i] = base[i] + sum[i] / max(weights[i], 1e-6), two roundings. `target` may be one of the sums. */
  finishElected(target: Tile, elected: Elected, base: Tile, count: number): void;
};

export type Elected = { readonly majority: Tile; readonly sum: Tile; readonly weights: Tile };

const { fround } = Math;

function difference(a: Tile, base: Tile, index: number): number {
  return fround((a.values[index] ?? 0) - (base.values[index] ?? 0));
}

function marked(a: Tile, base: Tile, { bits, bitOffset }: MarkedBits, index: number): number {
  return difference(a, base, index) * (bitAt(bits, bitOffset + index) ? 1 : 0);
}

export const scalarConsensus: Consensus = Object.freeze({
  addMoments(moments, a, base, ordinal, count) {
    const [means, squares] = [doublesOf(moments.means), doublesOf(moments.squares)];
    for (let i = 0; i < count; i++) {
      const [mean, square] = ordinal === 1 ? [0, 0] : [means[i] ?? 0, squares[i] ?? 0];
      const delta = difference(a, base, i);
      const distance = delta - mean;
      const next = mean + distance / ordinal;
      means[i] = next;
      squares[i] = square + distance * (delta - next);
    }
  },
  writeVariance(target, { squares }, models, count) {
    const values = doublesOf(squares);
    for (let i = 0; i < count; i++) target.values[i] = (values[i] ?? 0) / models;
  },
  addMarked(target, a, base, marks, count) {
    for (let i = 0; i < count; i++) target.values[i] = (target.values[i] ?? 0) + marked(a, base, marks, i);
  },
  addElected({ majority, sum, weights }, a, base, marks, weight, count) {
    for (let i = 0; i < count; i++) {
      const value = marked(a, base, marks, i);
      const vote = Math.sign(value) === ((majority.values[i] ?? 0) >= 0 ? 1 : -1) ? 1 : 0;
      sum.values[i] = (sum.values[i] ?? 0) + fround(value * fround(weight)) * vote;
      weights.values[i] = (weights.values[i] ?? 0) + fround(weight) * vote;
    }
  },
  finishElected(target, { sum, weights }, base, count) {
    const floor = fround(WEIGHTS_FLOOR);
    for (let i = 0; i < count; i++) {
      const divisor = Math.max(weights.values[i] ?? 0, floor);
      target.values[i] = (base.values[i] ?? 0) + fround((sum.values[i] ?? 0) / divisor);
    }
  },
} satisfies Consensus);
