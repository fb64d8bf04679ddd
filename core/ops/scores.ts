// Scores of elements from their distance and a factor of their row, and what lies above a threshold of them: the
// meaning of the operations, in plain TypeScript.
import { wordsOf } from "./deltas.ts";
import type { Block, Tile } from "./memory.ts";

/** float32 factors by row of `length` elements. */
export type RowFactors = { readonly factors: Block; readonly length: number };

export type Scores = {
  /** target[i] = |fl(a[i] - base[i])| factor of the row of flat element firstElement + i, rounded to float32. */
  writeScores(target: Tile, a: Tile, base: Tile, rows: RowFactors, firstElement: number, count: number): void;
  /** target[i] = base[i] + fl((a[i] - base[i]) s), s = 1 where scores[i] >= threshold, else 0. May be in place. */
  addScored(target: Tile, a: Tile, base: Tile, scores: Tile, threshold: number, count: number): void;
};

const { fround } = Math;

export const scalarScores: Scores = Object.freeze({
  writeScores(target, a, base, { factors, length }, firstElement, count) {
    const values = new Float32Array(wordsOf(factors).buffer, factors.bytes.byteOffset, factors.bytes.byteLength >>> 2);
    for (let i = 0; i < count; i++) {
      const distance = Math.abs(fround((a.values[i] ?? 0) - (base.values[i] ?? 0)));
      target.values[i] = distance * (values[Math.floor((firstElement + i) / length)] ?? 0);
    }
  },
  addScored(target, a, base, scores, threshold, count) {
    const least = fround(threshold);
    for (let i = 0; i < count; i++) {
      const origin = base.values[i] ?? 0;
      const delta = fround((a.values[i] ?? 0) - origin);
      target.values[i] = origin + delta * ((scores.values[i] ?? 0) >= least ? 1 : 0);
    }
  },
} satisfies Scores);
