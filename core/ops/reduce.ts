// Reductions by tile: the meaning of each, in plain TypeScript. A tensor's value is the sum of its tiles' values
// in tile order, so it depends on nothing but the numbers (reference: merge methods, section 14 rule 2).
import { elementBytes } from "../tensor.ts";
import { scalarCast } from "./cast.ts";
import type { CombineDtype } from "./combine.ts";
import { readDeltas } from "./deltas.ts";
import type { Block, Tile } from "./memory.ts";

/** Vectors as they are stored: the sources, or, where there is a base, fl32(source - base) of each. */
export type StoredVectors = {
  readonly dtype: CombineDtype;
  readonly base: Block | undefined;
  readonly sources: readonly Block[];
  /** Of the first element, in every block. */
  readonly byteOffset: number;
};

export type Reduce = {
  /**
   * Sum of a[i] * b[i] in float64. Products of float32 values are exact in float64; element i goes to partial sum i mod
   * 8 in order, and the eight partial sums are added 0 to 7.
   */
  dot(a: Tile, b: Tile, count: number): number;
  /**
   * Adds the product of every pair of n vectors, and of each with itself, to `gram`: n x n float64, the upper triangle.
   * Tile by tile, and a tile by runs of 32 elements: in a run element i goes to float32 sum i mod 4 in order, products
   * rounded as well; every run's four sums are added to four of the tile in float64, and those 0 to 3. What float32
   * loses of a norm is some 1e-9 of it. Values above 1e19 or below 1e-19 have products that it does not hold, as in the
   * reference, which knows nothing else.
   */
  addProducts(gram: Float64Array, vectors: StoredVectors, count: number, tileElements: number): void;
};

export const scalarReduce: Reduce = Object.freeze({
  dot,
  addProducts(gram, vectors, count, tileElements) {
    const unit = elementBytes(vectors.dtype, 1);
    for (let done = 0; done < count; done += tileElements) {
      const byteOffset = vectors.byteOffset + done * unit;
      addTileProducts(gram, { ...vectors, byteOffset }, Math.min(tileElements, count - done));
    }
  },
} satisfies Reduce);

function addTileProducts(gram: Float64Array, vectors: StoredVectors, count: number): void {
  const { dtype, base, sources, byteOffset } = vectors;
  const tiles = sources.map((source): Tile => {
    if (base !== undefined) return { address: 0, values: readDeltas({ dtype, base, source, byteOffset }, count) };
    const tile = { address: 0, values: new Float32Array(count) };
    scalarCast.widen(dtype, source, byteOffset, tile, count);
    return tile;
  });
  tiles.forEach((a, i) => {
    tiles.forEach((b, j) => {
      const at = i * tiles.length + j;
      if (i <= j) gram[at] = (gram[at] ?? 0) + runProduct(a, b, count);
    });
  });
}

/** Elements whose products are added in float32. */
const RUN_ELEMENTS = 32;

function runProduct(a: Tile, b: Tile, count: number): number {
  const sums = [0, 0, 0, 0];
  for (let start = 0; start < count; start += RUN_ELEMENTS) {
    const run = new Float32Array(sums.length);
    for (let index = start; index < Math.min(start + RUN_ELEMENTS, count); index++) {
      const lane = index & 3;
      run[lane] = (run[lane] ?? 0) + Math.fround((a.values[index] ?? 0) * (b.values[index] ?? 0));
    }
    run.forEach((value, lane) => {
      sums[lane] = (sums[lane] ?? 0) + value;
    });
  }
  return sums.reduce((sum, value) => sum + value, 0);
}

function dot(a: Tile, b: Tile, count: number): number {
  const partial = new Float64Array(8);
  for (let index = 0; index < count; index++) {
    const lane = index & 7;
    partial[lane] = (partial[lane] ?? 0) + (a.values[index] ?? 0) * (b.values[index] ?? 0);
  }
  return partial.reduce((sum, value) => sum + value, 0);
}
