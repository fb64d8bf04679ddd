// Where models changed the same elements: counts of the differences to a base that are large, and sums that depend on
// them. The meaning of the operations, in plain TypeScript. A difference is large when |fl(a[i] - base[i])| is above
// epsilon, rounded to float32; NaN is not. Counts are 32-bit words in a tile.
import type { Tile } from "./memory.ts";

export type Overlap = {
  /** counts[i] += 1 where a's difference is large; the first call for a tile (`isFirst`) clears what was there. */
  countLarge(counts: Tile, a: Tile, base: Tile, epsilon: number, isFirst: boolean, count: number): void;
  /** How many of a's large differences are the only one at their element, and how many are not. */
  tallyLarge(counts: Tile, a: Tile, base: Tile, epsilon: number, count: number): LargeTally;
  /**
   * target[i] = target[i] + fl(a[i] - base[i]) f with f = 0 where the difference is not large, `uniqueFactor` where it
   * is the only large one, else 1; each step rounds to float32.
   */
  addLarge(target: Tile, counts: Tile, a: Tile, base: Tile, epsilon: number, uniqueFactor: number, count: number): void;
  /** target[i] = base[i] + target[i] / max(counts[i], 1), two roundings. */
  finishLarge(target: Tile, counts: Tile, base: Tile, count: number): void;
};

export type LargeTally = { readonly unique: number; readonly overlapping: number };

const { fround } = Math;

/** The words of a tile. */
function wordsOf(tile: Tile): Uint32Array {
  return new Uint32Array(tile.values.buffer, tile.values.byteOffset, tile.values.length);
}

function difference(a: Tile, base: Tile, index: number): number {
  return fround((a.values[index] ?? 0) - (base.values[index] ?? 0));
}

export const scalarOverlap: Overlap = Object.freeze({
  countLarge(counts, a, base, epsilon, isFirst, count) {
    const words = wordsOf(counts);
    for (let i = 0; i < count; i++) {
      const before = isFirst ? 0 : (words[i] ?? 0);
      words[i] = before + (Math.abs(difference(a, base, i)) > fround(epsilon) ? 1 : 0);
    }
  },
  tallyLarge(counts, a, base, epsilon, count) {
    const tally = { unique: 0, overlapping: 0 };
    wordsOf(counts)
      .subarray(0, count)
      .forEach((others, i) => {
        if (!(Math.abs(difference(a, base, i)) > fround(epsilon))) return;
        if (others === 1) tally.unique++;
        else tally.overlapping++;
      });
    return tally;
  },
  addLarge(target, counts, a, base, epsilon, uniqueFactor, count) {
    const words = wordsOf(counts);
    for (let i = 0; i < count; i++) {
      const delta = difference(a, base, i);
      const factor = words[i] === 1 ? fround(uniqueFactor) : 1;
      const added = delta * (Math.abs(delta) > fround(epsilon) ? factor : 0);
      target.values[i] = (target.values[i] ?? 0) + fround(added);
    }
  },
  finishLarge(target, counts, base, count) {
    const words = wordsOf(counts);
    for (let i = 0; i < count; i++) {
      target.values[i] = (base.values[i] ?? 0) + fround((target.values[i] ?? 0) / Math.max(words[i] ?? 0, 1));
    }
  },
} satisfies Overlap);
