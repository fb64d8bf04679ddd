// The orthogonal part of a set of vectors, and sums of their outer products: what isotropic and singular-vector merging
// make of singular vectors.
import { type Allocate, doublesBytes, type Matrix, multiplyTransposed } from "./matrix.ts";
import { svd, svdBytes } from "./svd.ts";

/** Bytes of kernel memory that `outerProducts` allocates. */
export function outerProductsBytes(terms: number): number {
  return doublesBytes(terms);
}

/** target = left^T right: the sum of the outer products of their rows. */
export function outerProducts(target: Matrix, left: Matrix, right: Matrix, allocate: Allocate): void {
  multiplyTransposed(target, left, right, allocate(left.rows));
}

/** Bytes of kernel memory that `orthogonalPart` allocates. */
export function orthogonalPartBytes(rows: number, columns: number): number {
  return svdBytes(rows, columns) + outerProductsBytes(Math.min(rows, columns));
}

/** Overwrites X = P S Q^T with P Q^T: orthonormal rows or columns, the nearest to X (the polar decomposition). */
export function orthogonalPart(x: Matrix, allocate: Allocate): void {
  const { left, right } = svd(x, allocate);
  outerProducts(x, left, right, allocate);
}
