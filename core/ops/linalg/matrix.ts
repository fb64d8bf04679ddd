// Dense matrices in float64 and their products. Row-major, whole in memory; every sum has one fixed order, so results
// are the same bits wherever they are computed. Used by the methods that need singular vectors, and by alignment.
import { type Doubles, type MatrixProduct, scalarMatrixProduct } from "../matrix-product.ts";
import { allocatedBytes, doublesOf, type Memory } from "../memory.ts";

/** `rows` x `columns` values, row by row. */
export type Matrix = { readonly rows: number; readonly columns: number; readonly values: Float64Array };

/** Where matrices get their memory; not zeroed. */
export type Allocate = (count: number) => Float64Array;

/** Memory from the garbage-collected heap. */
export const onHeap: Allocate = (count) => new Float64Array(count);

/** Kernel memory. */
export function inMemory(memory: Pick<Memory, "allocateBlock">): Allocate {
  return (count) => doublesOf(memory.allocateBlock(8 * count));
}

/** Bytes that kernel memory gives for `count` values. */
export function doublesBytes(count: number): number {
  return allocatedBytes(8 * count);
}

/** A matrix of unspecified values. */
export function allocateMatrix(allocate: Allocate, rows: number, columns: number): Matrix {
  return { rows, columns, values: allocate(rows * columns) };
}

/** Row `index`, a view. */
export function rowOf({ columns, values }: Matrix, index: number): Float64Array {
  return values.subarray(index * columns, (index + 1) * columns);
}

/** The first `count` rows, a view. */
export function firstRows({ columns, values }: Matrix, count: number): Matrix {
  return { rows: count, columns, values: values.subarray(0, count * columns) };
}

/** Sum of a[i] * b[i]: element i goes to partial sum i mod 4 in order, and the four are added 0 to 3. */
export function dotDoubles(a: Float64Array, b: Float64Array): number {
  const count = a.length;
  const whole = count - (count % 4);
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let i = 0; i < whole; i += 4) {
    s0 += (a[i] ?? 0) * (b[i] ?? 0);
    s1 += (a[i + 1] ?? 0) * (b[i + 1] ?? 0);
    s2 += (a[i + 2] ?? 0) * (b[i + 2] ?? 0);
    s3 += (a[i + 3] ?? 0) * (b[i + 3] ?? 0);
  }
  for (let i = whole; i < count; i++) {
    const value = (a[i] ?? 0) * (b[i] ?? 0);
    if (i - whole === 0) s0 += value;
    else if (i - whole === 1) s1 += value;
    else s2 += value;
  }
  return s0 + s1 + s2 + s3;
}

/** target += factor source. */
export function addScaledDoubles(target: Float64Array, source: Float64Array, factor: number): void {
  for (let i = 0; i < target.length; i++) target[i] = (target[i] ?? 0) + factor * (source[i] ?? 0);
}

/** Rows and columns of a matrix from these on, as products take them. */
export function partOf({ columns, values }: Matrix, row: number, column: number): Doubles {
  return { values: values.subarray(row * columns + column), stride: columns };
}

/** target = a b, of [m, k] and [k, n]; element (i, j) is the sum over k in order, from 0. */
export function multiply(target: Matrix, a: Matrix, b: Matrix): void {
  target.values.fill(0);
  addProduct(target, a, b, scalarMatrixProduct);
}

/** target += a b, of [m, k] and [k, n]; the terms of element (i, j) are added over k in order. */
export function addProduct(target: Matrix, a: Matrix, b: Matrix, { addMatrixProduct }: MatrixProduct): void {
  const shape = { rows: a.rows, inner: b.rows, columns: b.columns, sign: 1 } as const;
  addMatrixProduct(partOf(target, 0, 0), partOf(a, 0, 0), partOf(b, 0, 0), shape);
}

/** target = a^T b, of [k, m] and [k, n]; `factor` is one more row of `column`s of a at a time. */
export function multiplyTransposed(target: Matrix, a: Matrix, b: Matrix, column: Float64Array): void {
  target.values.fill(0);
  for (let i = 0; i < a.columns; i++) {
    for (let k = 0; k < a.rows; k++) column[k] = a.values[k * a.columns + i] ?? 0;
    addCombination(rowOf(target, i), column.subarray(0, a.rows), b);
  }
}

/** target += sum over k of factors[k] times row k of b, in order; four rows are read at a time. */
export function addCombination(target: Float64Array, factors: Float64Array, b: Matrix): void {
  const whole = b.rows - (b.rows % 4);
  for (let k = 0; k < whole; k += 4) {
    const [f0, f1, f2, f3] = [factors[k] ?? 0, factors[k + 1] ?? 0, factors[k + 2] ?? 0, factors[k + 3] ?? 0];
    const [r0, r1, r2, r3] = [rowOf(b, k), rowOf(b, k + 1), rowOf(b, k + 2), rowOf(b, k + 3)];
    for (let j = 0; j < target.length; j++) {
      const two = (target[j] ?? 0) + f0 * (r0[j] ?? 0) + f1 * (r1[j] ?? 0);
      target[j] = two + f2 * (r2[j] ?? 0) + f3 * (r3[j] ?? 0);
    }
  }
  for (let k = whole; k < b.rows; k++) addScaledDoubles(target, rowOf(b, k), factors[k] ?? 0);
}

/** target = a a^T, of [m, n]. */
export function gramOfRows(target: Matrix, a: Matrix): void {
  for (let i = 0; i < a.rows; i++) {
    const row = rowOf(a, i);
    for (let j = 0; j <= i; j++) {
      const value = dotDoubles(row, rowOf(a, j));
      target.values[i * a.rows + j] = value;
      target.values[j * a.rows + i] = value;
    }
  }
}

/** a^T, in memory of its own. */
export function transposed(a: Matrix): Matrix {
  const target = allocateMatrix(onHeap, a.columns, a.rows);
  transpose(target, a);
  return target;
}

/** target = a^T. */
export function transpose(target: Matrix, a: Matrix): void {
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < a.columns; j++) target.values[j * a.rows + i] = a.values[i * a.columns + j] ?? 0;
  }
}
