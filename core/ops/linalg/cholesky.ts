// Cholesky's decomposition of a symmetric positive definite matrix, and systems solved by it, in float64 with one fixed
// order of operations. Used by the methods that solve for a layer's weights.
import { addScaledDoubles, dotDoubles, type Matrix, rowOf } from "./matrix.ts";

/** A row of which less than this is left, relative to its diagonal, says no more than float32 rounding. */
const PIVOT_FLOOR = 2 ** -23;

/**
 * Overwrites the lower triangle of `matrix` with L, L L^T = matrix; only the lower triangle is read. The index of the
 * first row that depends on those before it (its pivot is not above 2^-23 of its diagonal), or undefined when there is
 * none: then the matrix is positive definite.
 */
export function factorCholesky(matrix: Matrix): number | undefined {
  for (let i = 0; i < matrix.rows; i++) {
    const row = rowOf(matrix, i);
    for (let j = 0; j < i; j++) {
      const other = rowOf(matrix, j);
      const rest = (row[j] ?? 0) - dotDoubles(row.subarray(0, j), other.subarray(0, j));
      row[j] = rest / (other[j] ?? 0);
    }
    const diagonal = row[i] ?? 0;
    const before = row.subarray(0, i);
    const pivot = diagonal - dotDoubles(before, before);
    if (!(pivot > PIVOT_FLOOR * diagonal)) return i;
    row[i] = Math.sqrt(pivot);
  }
  return undefined;
}

/** Overwrites `vector` with x, L L^T x = vector. */
export function solveCholesky(lower: Matrix, vector: Float64Array): void {
  for (let i = 0; i < lower.rows; i++) {
    const row = rowOf(lower, i);
    const rest = (vector[i] ?? 0) - dotDoubles(row.subarray(0, i), vector.subarray(0, i));
    vector[i] = rest / (row[i] ?? 0);
  }
  for (let i = lower.rows - 1; i >= 0; i--) {
    const row = rowOf(lower, i);
    const value = (vector[i] ?? 0) / (row[i] ?? 0);
    vector[i] = value;
    addScaledDoubles(vector.subarray(0, i), row.subarray(0, i), -value);
  }
}
