// Random masks whose probabilities follow the rank of a magnitude within its line, exact: equal keys are ranked in
// index order. Source of the rule: merge reference, sections 2.5 and 4.9.
import { type StreamKey, UNIFORM_STEPS, uniformAt } from "../random.ts";
import { clearRest, setBit, wordsOf } from "./deltas.ts";
import { thresholdOf } from "./mask.ts";
import type { Block } from "./memory.ts";

/** Probabilities by rank, as kernels compare them: the upper 8 and the lower 32 of 40 bits. */
export type Thresholds = { readonly highs: Block; readonly lows: Block };

/** Lines of `length` elements along the middle axis of outer x length x inner. */
export type Lines = { readonly outer: number; readonly length: number; readonly inner: number };

export type RankedMask = {
  /**
   * Bit bitOffset + i = uniformAt(key, firstElement + i) < the probability of the rank of word i of `keys` in its line,
   * 0 for the smallest; of equal keys the one with the lower index has the lower rank. Zeros up to a whole group of
   * bits. Probabilities grow with the rank or fall with it; `scratch` has the size of `rankedScratchBytes`, and is
   * zeroed before its first use.
   */
  drawRankedMask(
    key: StreamKey,
    firstElement: number,
    thresholds: Thresholds,
    keys: Block,
    lines: Lines,
    bits: Block,
    bitOffset: number,
    scratch: Block,
  ): void;
};

/** Counters and bounds of 2^16 classes, 18 bytes an element of a line, two an element of a tile, and padding. */
export function rankedScratchBytes(length: number, tileElements: number): number {
  return 2 ** 18 + 18 * (length + 64) + 2 * (tileElements + 192) + 512;
}

/** Fills a table: entry r is the threshold of `probabilityOf(r)`. */
export function writeThresholds(
  { highs, lows }: Thresholds,
  count: number,
  probabilityOf: (rank: number) => number,
): void {
  const words = wordsOf(lows);
  for (let rank = 0; rank < count; rank++) {
    const { high, low } = thresholdOf(probabilityOf(rank));
    highs.bytes[rank] = high;
    words[rank] = low;
  }
}

export const scalarRankedMask: RankedMask = Object.freeze({
  drawRankedMask(key, firstElement, { highs, lows }, keys, { outer, length, inner }, bits, bitOffset) {
    const [words, lowOf] = [wordsOf(keys), wordsOf(lows)];
    for (let line = 0; line < outer * inner; line++) {
      const first = Math.floor(line / inner) * length * inner + (line % inner);
      const own = Array.from({ length }, (_, i) => words[first + i * inner] ?? 0);
      const order = own.map((_, i) => i).sort((a, b) => (own[a] ?? 0) - (own[b] ?? 0) || a - b);
      order.forEach((index, rank) => {
        const at = first + index * inner;
        const limit = ((highs.bytes[rank] ?? 0) * 2 ** 32 + (lowOf[rank] ?? 0)) / UNIFORM_STEPS;
        setBit(bits, bitOffset + at, uniformAt(key, firstElement + at) < limit);
      });
    }
    clearRest(bits, bitOffset, outer * length * inner);
  },
} satisfies RankedMask);
