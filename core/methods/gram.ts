// Dot products of whole tensors, all pairs in one pass. Many methods need no more than these: every vector they build
// is a linear combination of their inputs, so lengths and angles follow from the products, and the result is applied as
// one combination.
import assert from "node:assert/strict";
import type { Kernels, Tile } from "../ops/kernels.ts";
import type { Pass } from "./method.ts";

/** Symmetric matrix of the dot products of n vectors, row by row, in float64. */
export type Gram = readonly (readonly number[])[];

export type GramPass = { readonly pass: Pass; readonly gram: Gram };

/**
 * A reduce pass that fills `gram` with the products of the inputs at `vectors`, or, when `base` is an index, of their
 * differences to that input (which take a tile each: `scratchTiles` of the method).
 * Order: float64 by tile, tiles in order.
 */
export function createGramPass(
  kernels: Kernels,
  vectors: readonly number[],
  base: number | undefined,
  tileElements: number,
): GramPass {
  const gram = vectors.map(() => vectors.map(() => 0));
  const deltas = base === undefined ? [] : vectors.map(() => kernels.allocateTile(tileElements));
  const pass: Pass = {
    tile({ inputs, count }) {
      const tiles = vectors.map((index, position) => toVector(kernels, inputs, index, base, deltas[position], count));
      tiles.forEach((a, i) => {
        for (let j = i; j < tiles.length; j++) {
          const b = tiles[j];
          if (b !== undefined) addSymmetric(gram, i, j, kernels.dot(a, b, count));
        }
      });
    },
  };
  return { pass, gram };
}

function toVector(
  kernels: Kernels,
  inputs: readonly Tile[],
  index: number,
  base: number | undefined,
  delta: Tile | undefined,
  count: number,
): Tile {
  const [own, origin] = [inputs[index], base === undefined ? undefined : inputs[base]];
  assert.ok(own !== undefined, "a vector without an input");
  if (origin === undefined || delta === undefined) return own;
  kernels.subtract(delta, own, origin, count);
  return delta;
}

function addSymmetric(gram: readonly number[][], i: number, j: number, value: number): void {
  const [rowI, rowJ] = [gram[i], gram[j]];
  if (rowI === undefined || rowJ === undefined) return;
  rowI[j] = (rowI[j] ?? 0) + value;
  if (i !== j) rowJ[i] = (rowJ[i] ?? 0) + value;
}

/** Product of vectors i and j. */
export function product(gram: Gram, i: number, j: number): number {
  return gram[i]?.[j] ?? 0;
}

/** L2 norms of the vectors. */
export function normsOf(gram: Gram): readonly number[] {
  return gram.map((_, index) => Math.sqrt(product(gram, index, index)));
}

/** Product of two combinations of the vectors: a^T G b. */
export function combinedProduct(gram: Gram, a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, left, i) => sum + b.reduce((row, right, j) => row + left * right * product(gram, i, j), 0), 0);
}

/** The products of the vectors scaled by `factors`. */
export function scaleGram(gram: Gram, factors: readonly number[]): Gram {
  return gram.map((row, i) => row.map((value, j) => value * (factors[i] ?? 0) * (factors[j] ?? 0)));
}
