// Magnitudes of task vectors as integers, to find an order statistic by counting instead of sorting. The key of a
// difference is the bit pattern of |fl32(source - base)|: it grows with the magnitude. Every NaN has one key, the
// largest. Source of the rules: merge reference, sections 2.4, 14 rules 3 and 4.
import { clearRest, type Deltas, readDeltas, setBit, wordsOf } from "./deltas.ts";
import type { Block } from "./memory.ts";

/** Key of every NaN; no key is larger. */
export const KEY_MAX = 0x7fc00000;

/** Two keys, low < high or equal, that an order statistic is expected to lie between. */
export type Bracket = { readonly low: number; readonly high: number };

/** Keys from low to high, both included: none where low is above high. */
export type KeyBand = { readonly low: number; readonly high: number };

export type BracketCounts = {
  /** Keys above `high`, equal to it, and from `low` to `high`. */
  readonly above: number;
  readonly atHigh: number;
  readonly held: number;
  /** Keys in the list now. */
  readonly listed: number;
};

export type Select = {
  /** target[first + i] = key of element i, as 32-bit words. */
  writeKeys(deltas: Deltas, target: Block, first: number, count: number): void;
  /**
   * Counts keys against a bracket; and by tile, three words of `tally` each: those equal to `high`, strictly inside,
   * and from `low` to `high`. Those inside are appended to `list`, in order, after the `listed` words that it holds.
   * Undefined, and what was counted of no use, when the list has no room for all keys of a tile.
   */
  countBracket(
    deltas: Deltas,
    bracket: Bracket,
    list: Block,
    listed: number,
    tally: Block,
    count: number,
    tileElements: number,
  ): BracketCounts | undefined;
  /** Adds 1 to word (key - origin) >>> shift of `bins` for every key where that is below `binCount`. */
  countKeys(deltas: Deltas, origin: number, shift: number, bins: Block, binCount: number, count: number): void;
  /** Keys equal to `key`. */
  countEqual(deltas: Deltas, key: number, count: number): number;
  /** Bit bitOffset + i says whether the band holds key i; zeros up to a whole group of bits. */
  markKeys(deltas: Deltas, band: KeyBand, bits: Block, bitOffset: number, count: number): void;
};

export const scalarSelect: Select = Object.freeze({
  writeKeys(deltas, target, first, count) {
    wordsOf(target).set(keysOf(deltas, count), first);
  },
  countBracket(deltas, { low, high }, list, listed, tally, count, tileElements) {
    const keys = keysOf(deltas, count);
    const counts = { above: keys.filter((key) => key > high).length, atHigh: 0, held: 0, listed };
    for (let done = 0; done < count; done += tileElements) {
      const tile = keys.subarray(done, done + tileElements);
      if (4 * (counts.listed + tile.length) > list.bytes.length) return undefined;
      const held = tile.filter((key) => key >= low && key <= high);
      const inside = held.filter((key) => key > low && key < high);
      const atHigh = held.filter((key) => key === high).length;
      wordsOf(list).set(inside, counts.listed);
      wordsOf(tally).set([atHigh, inside.length, held.length], (3 * done) / tileElements);
      counts.atHigh += atHigh;
      counts.held += held.length;
      counts.listed += inside.length;
    }
    return counts;
  },
  countKeys(deltas, origin, shift, bins, binCount, count) {
    const counts = wordsOf(bins);
    for (const key of keysOf(deltas, count)) {
      const bin = (key - origin) >>> shift;
      if (bin < binCount) counts[bin] = (counts[bin] ?? 0) + 1;
    }
  },
  countEqual: (deltas, key, count) => keysOf(deltas, count).filter((other) => other === key).length,
  markKeys(deltas, { low, high }, bits, bitOffset, count) {
    keysOf(deltas, count).forEach((key, i) => {
      setBit(bits, bitOffset + i, low <= key && key <= high);
    });
    clearRest(bits, bitOffset, count);
  },
} satisfies Select);

/** Keys of `count` differences. */
export function keysOf(deltas: Deltas, count: number): Uint32Array {
  const bits = new Uint32Array(readDeltas(deltas, count).buffer);
  return bits.map((word) => Math.min(word & 0x7fffffff, KEY_MAX));
}
