// Singular triplets as methods of task matrices keep them: those of several matrices in one stack, and what a stack
// becomes where all of its directions get the same strength.
import { type Allocate, allocateMatrix, doublesBytes, firstRows, type Matrix } from "../../ops/linalg/matrix.ts";
import { outerProducts } from "../../ops/linalg/orthogonal.ts";
import type { Svd } from "../../ops/linalg/svd.ts";

/** Room for `count` triplets of matrices of these sides. */
export function allocateTriplets(allocate: Allocate, count: number, rows: number, columns: number): Svd {
  return {
    left: allocateMatrix(allocate, count, rows),
    right: allocateMatrix(allocate, count, columns),
    values: allocate(count),
  };
}

/** Memory of `allocateTriplets`. */
export function tripletsBytes(count: number, rows: number, columns: number): number {
  return doublesBytes(count * rows) + doublesBytes(count * columns) + doublesBytes(count);
}

/** The first `count` triplets of `source` to the places of `target` from `first` on. */
export function keepTriplets(target: Svd, first: number, count: number, source: Svd): void {
  target.left.values.set(firstRows(source.left, count).values, first * target.left.columns);
  target.right.values.set(firstRows(source.right, count).values, first * target.right.columns);
  target.values.set(source.values.subarray(0, count), first);
}

/** target = s U V^T, s the mean of the values, added up in order. Memory: `outerProductsBytes`. */
export function spreadEvenly(target: Matrix, { left, right, values }: Svd, allocate: Allocate): void {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  outerProducts(target, left, right, allocate);
  for (let i = 0; i < target.values.length; i++) target.values[i] = mean * (target.values[i] ?? 0);
}
