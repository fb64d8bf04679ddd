// Reductions over one tile: the meaning of each, in plain TypeScript. A tensor's value is the sum of its tiles' values
// in tile order, so it depends on nothing but the numbers (reference: merge methods, section 14 rule 2).
import type { Tile } from "./memory.ts";

export type Reduce = {
  /**
   * Sum of a[i] * b[i] in float64. Products of float32 values are exact in float64; element i goes to partial sum i mod
   * 8 in order, and the eight partial sums are added 0 to 7.
   */
  dot(a: Tile, b: Tile, count: number): number;
};

export const scalarReduce: Reduce = Object.freeze({
  dot(a, b, count) {
    const partial = new Float64Array(8);
    for (let index = 0; index < count; index++) {
      const lane = index & 7;
      partial[lane] = (partial[lane] ?? 0) + (a.values[index] ?? 0) * (b.values[index] ?? 0);
    }
    return partial.reduce((sum, value) => sum + value, 0);
  },
} satisfies Reduce);
