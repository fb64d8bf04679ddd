// How many keys of magnitudes each bin has, for any number of keys: the kernel counts in words of 32 bits, and before
// one of these could overflow, all are added to float64 sums. For the searches of a tensor's and of a model's ranks.
import assert from "node:assert/strict";
import { type Deltas, wordsOf } from "../../ops/deltas.ts";
import type { Block, Kernels } from "../../ops/kernels.ts";

const WORD_MAX = 2 ** 32 - 1;

/**
 * Bin i holds the 2^shift keys from origin + i 2^shift on. Two histograms find a key: of the upper 15 bits of all keys,
 * then of the lower 16 of those in one of its bins.
 */
export type Bins = { readonly origin: number; readonly shift: number; readonly length: number };

export const COARSE_BINS: Bins = Object.freeze({ origin: 0, shift: 16, length: 2 ** 15 });
export const FINE_LENGTH = 2 ** 16;

/** Every key of one coarse bin has its own. */
export function fineBins(coarse: number): Bins {
  return { origin: coarse * FINE_LENGTH, shift: 0, length: FINE_LENGTH };
}

export type Histogram = {
  /** Counts the keys of `count` differences that lie in the bins. */
  add(deltas: Deltas, count: number): void;
  counts(): Float64Array;
};

/** An empty histogram in a block with room for a word a bin. */
export function createHistogram(kernels: Pick<Kernels, "countKeys">, block: Block, bins: Bins): Histogram {
  const words = wordsOf(block).subarray(0, bins.length);
  words.fill(0);
  let inWords = 0;
  let sums: Float64Array | undefined;
  const counts = (): Float64Array => {
    const all = new Float64Array(words);
    sums?.forEach((sum, bin) => {
      all[bin] = (all[bin] ?? 0) + sum;
    });
    return all;
  };
  return {
    add(deltas, count) {
      if (inWords + count > WORD_MAX) {
        sums = counts();
        words.fill(0);
        inWords = 0;
      }
      inWords += count;
      kernels.countKeys(deltas, bins.origin, bins.shift, block, bins.length, count);
    },
    counts,
  };
}

/** The bin that holds the element of a rank, counted from the last bin down. */
export function findBin(bins: ArrayLike<number>, rank: number): { bin: number; above: number; count: number } {
  let above = 0;
  for (let bin = bins.length - 1; bin >= 0; bin--) {
    const count = bins[bin] ?? 0;
    if (above + count >= rank) return { bin, above, count };
    above += count;
  }
  assert.fail(`rank ${rank} of ${above} elements`);
}
