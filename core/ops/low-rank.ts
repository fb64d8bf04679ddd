// The update that an adapter makes to a row of a weight: the meaning of the operation, in plain TypeScript.
import type { Tile } from "./memory.ts";

/** A row of the left factor (`rank` values, `leftStride` apart) and a part of the rows of the right one. */
export type RankTerms = {
  readonly left: Tile;
  readonly leftOffset: number;
  readonly leftStride: number;
  readonly right: Tile;
  readonly rightOffset: number;
  /** Elements from one row of the right factor to the next. */
  readonly rightStride: number;
  readonly rank: number;
  readonly scale: number;
};

export type LowRank = {
  /**
   * target[i] = target[i] + scale (((0 + l0 r0[i]) + l1 r1[i]) + ...), `rank` terms. Every product and sum rounds once
   * to float32; the scale is rounded to float32 first.
   */
  addLowRank(target: Tile, terms: RankTerms, count: number): void;
};

const { fround } = Math;

export const scalarLowRank: LowRank = Object.freeze({
  addLowRank(target, { left, leftOffset, leftStride, right, rightOffset, rightStride, rank, scale }, count) {
    for (let index = 0; index < count; index++) {
      let sum = 0;
      for (let term = 0; term < rank; term++) {
        const a = left.values[leftOffset + term * leftStride] ?? 0;
        const b = right.values[rightOffset + term * rightStride + index] ?? 0;
        sum = fround(sum + fround(a * b));
      }
      target.values[index] = (target.values[index] ?? 0) + fround(sum * fround(scale));
    }
  },
} satisfies LowRank);
