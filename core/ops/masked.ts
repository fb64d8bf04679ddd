// Task vectors under masks: summed for rescaling, added, or elected and added. Masks are bits, or bands of magnitudes.
// A masked element is multiplied by 0, not replaced, so NaN and infinity stay visible. Source of the steps: merge
// reference, section 4.6.

import { scalarCast } from "./cast.ts";
import type { CombineDtype } from "./combine.ts";
import { bitAt, type Deltas, readDeltas } from "./deltas.ts";
import type { Block, Tile } from "./memory.ts";
import { type KeyBand, keysOf } from "./select.ts";

/** Models that one masked combination may have. */
export const MASKED_SOURCES_MAX = 64;

/** A model's part: bit bitOffset + i of `bits` says whether element i is kept. */
export type MaskedSource = {
  readonly block: Block;
  readonly bits: Block;
  readonly bitOffset: number;
  /** Multiplies the kept difference, then the weight does; both rounded to float32. */
  readonly scale: number;
  readonly weight: number;
};

/** A model's part: elements are kept whose magnitude has a key in the band. */
export type BandedSource = KeyBand & {
  readonly block: Block;
  /** Multiplies the kept difference, rounded to float32. */
  readonly weight: number;
};

export type MaskedCombination = {
  /** Only values of the majority's sign are added; the majority's sign is that of the sum, + when it is 0. */
  readonly elects: boolean;
  /** With election: divide every element by the sum of the weights that were added, unless that is 0. */
  readonly normalizes: boolean;
  /** Without election: divides the sum; 1 leaves it. */
  readonly divisor: number;
  /** Multiplies the (divided) sum; 1 leaves it. */
  readonly multiplier: number;
};

export type MagnitudeSums = { all: number; kept: number };

export type Masked = {
  /**
   * Adds |difference| of all elements, and of the marked ones, to `sums`, tile by tile. In a tile, of each run of 32
   * elements, those with the same index mod 4 are added in float32 as the tree ((0+1)+(2+3))+((4+5)+(6+7)), missing and
   * unmarked ones as 0; tree sums go to four float64 sums in order, which are added (0+1)+(2+3). Error below 2e-7 of
   * the sum.
   */
  addMagnitudes(
    sums: MagnitudeSums,
    deltas: Deltas,
    bits: Block,
    bitOffset: number,
    count: number,
    tileElements: number,
  ): void;
  /**
   * target[i] = b[i] + (sum_j V_j[i] k_j[i] / divisor) multiplier with V_j = fl(fl(D_j (mark_j ? scale_j : 0))
   * weight_j), D_j = fl(s_j[i] - b[i]), and k_j = 1, or with election 1 where sign(V_j) is the majority's (0 and NaN
   * never are). Sums start at 0 and run in order of the sources; every operation rounds once to float32.
   */
  combineMasked(
    dtype: CombineDtype,
    base: Block,
    sources: readonly MaskedSource[],
    byteOffset: number,
    combination: MaskedCombination,
    target: Tile,
    count: number,
  ): void;
  /** combineMasked with V_j = fl(D_j (kept ? weight_j : 0)): the same where every scale is 1. */
  combineBanded(
    dtype: CombineDtype,
    base: Block,
    sources: readonly BandedSource[],
    byteOffset: number,
    combination: MaskedCombination,
    target: Tile,
    count: number,
  ): void;
  /**
   * combineMasked, narrowed to the sources' dtype as `narrow` does, to the same byte offset of `target`; returns what
   * it returns. There is room for `count` rounded up to 16.
   */
  combineMaskedStored(
    dtype: CombineDtype,
    base: Block,
    sources: readonly MaskedSource[],
    byteOffset: number,
    combination: MaskedCombination,
    target: Block,
    count: number,
  ): number;
  /** combineBanded, narrowed in the same way. */
  combineBandedStored(
    dtype: CombineDtype,
    base: Block,
    sources: readonly BandedSource[],
    byteOffset: number,
    combination: MaskedCombination,
    target: Block,
    count: number,
  ): number;
};

const { fround } = Math;

export const scalarMasked: Masked = Object.freeze({
  addMagnitudes(sums, deltas, bits, bitOffset, count, tileElements) {
    const magnitudes = readDeltas(deltas, count).map(Math.abs);
    const kept = magnitudes.map((value, i) => (bitAt(bits, bitOffset + i) ? value : 0));
    for (let done = 0; done < count; done += tileElements) {
      sums.all += sumRuns(magnitudes.subarray(done, done + tileElements));
      sums.kept += sumRuns(kept.subarray(done, done + tileElements));
    }
  },
  combineMasked(dtype, base, sources, byteOffset, combination, target, count) {
    const weighted = weighMasked(dtype, base, sources, byteOffset, count);
    addWeighted(widened(dtype, base, byteOffset, count), weighted, combination, target);
  },
  combineBanded(dtype, base, sources, byteOffset, combination, target, count) {
    const weighted = weighBanded(dtype, base, sources, byteOffset, count);
    addWeighted(widened(dtype, base, byteOffset, count), weighted, combination, target);
  },
  combineMaskedStored(dtype, base, sources, byteOffset, combination, target, count) {
    const result = { address: 0, values: new Float32Array(count) };
    scalarMasked.combineMasked(dtype, base, sources, byteOffset, combination, result, count);
    return scalarCast.narrow(dtype, result, target, byteOffset, count);
  },
  combineBandedStored(dtype, base, sources, byteOffset, combination, target, count) {
    const result = { address: 0, values: new Float32Array(count) };
    scalarMasked.combineBanded(dtype, base, sources, byteOffset, combination, result, count);
    return scalarCast.narrow(dtype, result, target, byteOffset, count);
  },
} satisfies Masked);

type Weighted = { readonly weight: number; readonly values: Float32Array };

function weighMasked(
  dtype: CombineDtype,
  base: Block,
  sources: readonly MaskedSource[],
  byteOffset: number,
  count: number,
): readonly Weighted[] {
  return sources.map(({ block, bits, bitOffset, scale, weight }) => ({
    weight: fround(weight),
    values: readDeltas({ dtype, base, source: block, byteOffset }, count).map((delta, i) =>
      fround(fround(delta * (bitAt(bits, bitOffset + i) ? fround(scale) : 0)) * fround(weight)),
    ),
  }));
}

function weighBanded(
  dtype: CombineDtype,
  base: Block,
  sources: readonly BandedSource[],
  byteOffset: number,
  count: number,
): readonly Weighted[] {
  return sources.map(({ block, low, high, weight }) => {
    const deltas = { dtype, base, source: block, byteOffset };
    const keys = keysOf(deltas, count);
    const isKept = (i: number) => low <= (keys[i] ?? 0) && (keys[i] ?? 0) <= high;
    const values = readDeltas(deltas, count).map((delta, i) => fround(delta * (isKept(i) ? fround(weight) : 0)));
    return { weight: fround(weight), values };
  });
}

function widened(dtype: CombineDtype, block: Block, byteOffset: number, count: number): Float32Array {
  const tile = { address: 0, values: new Float32Array(count) };
  scalarCast.widen(dtype, block, byteOffset, tile, count);
  return tile.values;
}

/** base + the combination of weighted differences. */
function addWeighted(
  base: Float32Array,
  weighted: readonly Weighted[],
  { elects, normalizes, divisor, multiplier }: MaskedCombination,
  target: Tile,
): void {
  const weights = weighted.map(({ weight }) => weight);
  base.forEach((origin, i) => {
    const values = weighted.map((own) => own.values[i] ?? 0);
    let sum = elects ? electSum(values, weights, normalizes) : addUp(values);
    if (!elects && divisor !== 1) sum = fround(sum / fround(divisor));
    if (multiplier !== 1) sum = fround(sum * fround(multiplier));
    target.values[i] = origin + sum;
  });
}

function addUp(values: readonly number[]): number {
  return values.reduce((sum, value) => fround(sum + value), 0);
}

function electSum(values: readonly number[], weights: readonly number[], normalizes: boolean): number {
  const majority = addUp(values) >= 0 ? 1 : -1;
  const votes = values.map((value) => (Math.sign(value) === majority ? 1 : 0));
  const sum = addUp(values.map((value, j) => value * (votes[j] ?? 0)));
  if (!normalizes) return sum;
  const divisor = addUp(weights.map((weight, j) => weight * (votes[j] ?? 0)));
  return fround(sum / (divisor === 0 ? 1 : divisor));
}

function sumRuns(values: Float32Array): number {
  const sums = [0, 0, 0, 0];
  const at = (index: number) => values[index] ?? 0;
  for (let run = 0; run < values.length; run += 32) {
    for (let lane = 0; lane < 4; lane++) {
      const pair = (index: number) => fround(at(run + lane + 4 * index) + at(run + lane + 4 * index + 4));
      const tree = fround(fround(pair(0) + pair(2)) + fround(pair(4) + pair(6)));
      sums[lane] = (sums[lane] ?? 0) + tree;
    }
  }
  const [a = 0, b = 0, c = 0, d = 0] = sums;
  return a + b + (c + d);
}
