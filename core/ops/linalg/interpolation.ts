// Weights that make a point of points near it, from their distances or from their inner products, in float64.
// Source: mergekit, mergekit/tokensurgeon/common_interpolation.py.

import { allocateMatrix, dotDoubles, type Matrix, onHeap, rowOf } from "./matrix.ts";
import { eigenScratch, symmetricEigen } from "./symmetric-eigen.ts";

/** Distances below this count as this, and so do sums of weights. */
const LEAST = 1e-6;

/** Directions whose eigenvalue is below this part of the largest are none. */
const NEGLIGIBLE = 1e-12;

/** Weights that sum to 1, in proportion to 1 / distance. */
export function inverseDistances(distances: readonly number[]): Float64Array {
  return normalised(Float64Array.from(distances, (distance) => 1 / Math.max(distance, LEAST)));
}

/** Weights that sum to 1, in proportion to `likeness`; a sum near 0 or below leaves them large. */
export function normalised(likeness: Float64Array): Float64Array {
  const sum = Math.max(
    LEAST,
    likeness.reduce((all, own) => all + own, 0),
  );
  return likeness.map((own) => own / sum);
}

/** Points by their inner products, and the inner product of each with the one that they are to make. */
export type PointProducts = { readonly gram: Matrix; readonly aims: Float64Array };

/** The weights w, of any sum, with the least |x - sum w_i p_i|; of several such the shortest w. */
export function leastSquares({ gram, aims }: PointProducts): Float64Array {
  return solveShortest(gram, aims);
}

/** The same among the weights whose sum is 1, by Lagrange's multiplier, which counts in what is shortest. */
export function barycentric({ gram, aims }: PointProducts): Float64Array {
  const size = gram.rows + 1;
  const bordered = allocateMatrix(onHeap, size, size);
  for (let i = 0; i < gram.rows; i++) rowOf(bordered, i).set([...rowOf(gram, i), 1]);
  rowOf(bordered, gram.rows).fill(1).set([0], gram.rows);
  return solveShortest(bordered, Float64Array.of(...aims, 1)).subarray(0, gram.rows);
}

/** The shortest of the vectors that come nearest to solving A w = b, for a symmetric A. */
function solveShortest(symmetric: Matrix, b: Float64Array): Float64Array {
  const size = symmetric.rows;
  const vectors = allocateMatrix(onHeap, size, size);
  const copy = { ...symmetric, values: symmetric.values.slice() };
  const values = symmetricEigen(copy, vectors, new Float64Array(eigenScratch(size)));
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const solution = new Float64Array(size);
  for (const [index, value] of values.entries()) {
    if (Math.abs(value) <= NEGLIGIBLE * largest) continue;
    const vector = rowOf(vectors, index);
    const along = dotDoubles(vector, b) / value;
    for (let i = 0; i < size; i++) solution[i] = (solution[i] ?? 0) + along * (vector[i] ?? 0);
  }
  return solution;
}
