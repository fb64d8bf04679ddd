// Ranks of magnitudes within lines, exact: equal keys are ranked in index order. Source of the rule: merge reference,
// sections 2.5 and 4.9.
import { wordsOf } from "./deltas.ts";
import type { Block } from "./memory.ts";

export type Rank = {
  /**
   * Replaces keys by ranks, 0 for the smallest: `keys` holds outer x length x inner words, and every line along the
   * middle axis is ranked by itself; of equal keys the one with the lower index has the lower rank.
   */
  rankKeys(keys: Block, outer: number, length: number, inner: number, scratch: Block): void;
};

/** Two counters and a flag for each of 2^15 bins, and three words an element of one line. */
export function rankScratchBytes(length: number): number {
  return 9 * 2 ** 15 + 12 * length;
}

export const scalarRank: Rank = Object.freeze({
  rankKeys(keys, outer, length, inner) {
    const words = wordsOf(keys);
    for (let line = 0; line < outer * inner; line++) {
      const first = Math.floor(line / inner) * length * inner + (line % inner);
      const own = Array.from({ length }, (_, i) => words[first + i * inner] ?? 0);
      const order = own.map((_, i) => i).sort((a, b) => (own[a] ?? 0) - (own[b] ?? 0) || a - b);
      order.forEach((index, rank) => {
        words[first + index * inner] = rank;
      });
    }
  },
} satisfies Rank);
