// Cholesky's decomposition of a symmetric positive definite matrix, and systems solved by it, in float64 with one fixed
// order of operations: by blocks, so that nearly all of the work is products of matrices. Used by the methods that
// solve for a layer's weights.
import type { MatrixProduct } from "../matrix-product.ts";
import { dotDoubles, type Matrix, partOf, rowOf } from "./matrix.ts";

/** A row of which less than this is left, relative to its diagonal, says no more than float32 rounding. */
const PIVOT_FLOOR = 2 ** -23;

/** Rows of a block. It decides the order of sums: changing it changes last bits. */
const BLOCK_ROWS = 64;

/**
 * Overwrites `matrix` with L below the diagonal and L^T above it, L L^T = matrix; only the lower triangle is read. The
 * index of the first row that depends on those before it (its pivot is not above 2^-23 of its diagonal), or undefined
 * when there is none: then the matrix is positive definite.
 */
export function factorCholesky(matrix: Matrix, kernels: MatrixProduct): number | undefined {
  const { rows: size, values } = matrix;
  const diagonal = Float64Array.from({ length: size }, (_, i) => values[i * size + i] ?? 0);
  for (let from = 0; from < size; from += BLOCK_ROWS) {
    const to = Math.min(size, from + BLOCK_ROWS);
    for (let i = from; i < size; i++) {
      const end = Math.min(i, to);
      substituteForward(matrix, rowOf(matrix, i), from, end);
      for (let j = from; j < end; j++) values[j * size + i] = values[i * size + j] ?? 0;
      if (i >= to) continue;
      const own = rowOf(matrix, i).subarray(from, i);
      const pivot = (values[i * size + i] ?? 0) - dotDoubles(own, own);
      if (!(pivot > PIVOT_FLOOR * (diagonal[i] ?? 0))) return i;
      values[i * size + i] = Math.sqrt(pivot);
    }
    // Taken away from the rows below, up to the end of their own blocks.
    for (let row = to; row < size; row += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, size - row);
      const shape = { rows, inner: to - from, columns: row + rows - to, sign: -1 } as const;
      kernels.addMatrixProduct(partOf(matrix, row, to), partOf(matrix, row, from), partOf(matrix, from, to), shape);
    }
  }
  return undefined;
}

/** Overwrites every row of `target` with x, L L^T x = row; `factor` is what `factorCholesky` leaves. */
export function solveCholesky(factor: Matrix, target: Matrix, kernels: MatrixProduct): void {
  const size = factor.rows;
  const { rows } = target;
  for (let from = 0; from < size; from += BLOCK_ROWS) {
    const to = Math.min(size, from + BLOCK_ROWS);
    for (let i = 0; i < rows; i++) substituteForward(factor, rowOf(target, i), from, to);
    const shape = { rows, inner: to - from, columns: size - to, sign: -1 } as const;
    kernels.addMatrixProduct(partOf(target, 0, to), partOf(target, 0, from), partOf(factor, from, to), shape);
  }
  const last = BLOCK_ROWS * Math.floor((size - 1) / BLOCK_ROWS);
  for (let from = last; from >= 0; from -= BLOCK_ROWS) {
    const to = Math.min(size, from + BLOCK_ROWS);
    for (let i = 0; i < rows; i++) substituteBack(factor, rowOf(target, i), from, to);
    const shape = { rows, inner: to - from, columns: from, sign: -1 } as const;
    kernels.addMatrixProduct(partOf(target, 0, 0), partOf(target, 0, from), partOf(factor, from, 0), shape);
  }
}

/** Elements [from, to) of y, L y = vector, by the rows of L^T; the elements before are taken away already. */
function substituteForward({ columns, values }: Matrix, vector: Float64Array, from: number, to: number): void {
  for (let j = from; j < to; j++) {
    const row = j * columns;
    const value = (vector[j] ?? 0) / (values[row + j] ?? 0);
    vector[j] = value;
    for (let k = j + 1; k < to; k++) vector[k] = (vector[k] ?? 0) - value * (values[row + k] ?? 0);
  }
}

/** Elements [from, to) of x, L^T x = vector, by the rows of L; the elements behind are taken away already. */
function substituteBack({ columns, values }: Matrix, vector: Float64Array, from: number, to: number): void {
  for (let j = to - 1; j >= from; j--) {
    const row = j * columns;
    const value = (vector[j] ?? 0) / (values[row + j] ?? 0);
    vector[j] = value;
    for (let k = from; k < j; k++) vector[k] = (vector[k] ?? 0) - value * (values[row + k] ?? 0);
  }
}
