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
   * Adds `dot` of every pair of n vectors, and of each with itself, to `gram`: n x n float64, the upper triangle. Of
   * more than `tileElements` elements, tile by tile.
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
      if (i <= j) gram[at] = (gram[at] ?? 0) + dot(a, b, count);
    });
  });
}

function dot(a: Tile, b: Tile, count: number): number {
  const partial = new Float64Array(8);
  for (let index = 0; index < count; index++) {
    const lane = index & 7;
    partial[lane] = (partial[lane] ?? 0) + (a.values[index] ?? 0) * (b.values[index] ?? 0);
  }
  return partial.reduce((sum, value) => sum + value, 0);
}
