// Thin singular value decomposition. The shorter side's Gram matrix gives vectors that are nearly right, one-sided
// Jacobi rotations make them right: the first is fast, the second accurate also for small singular values.
// Source: Hestenes 1958; Demmel and Veselic, Jacobi's method is more accurate than QR, 1992.
import {
  type Allocate,
  addScaledDoubles,
  allocateMatrix,
  dotDoubles,
  doublesBytes,
  gramOfRows,
  type Matrix,
  multiply,
  rowOf,
  transpose,
} from "./matrix.ts";
import { eigenScratch, rotateRows, symmetricEigen } from "./symmetric-eigen.ts";

/** A = sum over i of values[i] left_i^T right_i, k = min(rows, columns) terms, values descending. */
export type Svd = {
  /** k x rows: row i is the i-th left singular vector. */
  readonly left: Matrix;
  readonly values: Float64Array;
  /** k x columns. */
  readonly right: Matrix;
};

/** Rows count as orthogonal when their cosine is at most this. */
const ORTHOGONAL = 2 ** -44;
/** Sweeps of rotations; after the Gram matrix one or two are usual. */
const SWEEPS_MAX = 30;
/** Directions below this part of the largest singular value are noise of rounding: their vectors are completed. */
const NEGLIGIBLE = 2 ** -46;

/** Bytes of kernel memory that `svd` allocates. */
export function svdBytes(rows: number, columns: number): number {
  const [short, long] = [Math.min(rows, columns), Math.max(rows, columns)];
  const counts = [short * short, short * long, short, short * long, short * short, eigenScratch(short)];
  return counts.reduce((sum, count) => sum + doublesBytes(count), 0);
}

/**
 * Singular values and vectors of `a`, which is left as it is. The largest element of each left vector is positive, the
 * first of equals. Vectors of singular values that are 0 complete the others to an orthonormal set.
 * About 12 k^2 (k + l) operations for sides k <= l: a second for k = 512, minutes for k = 4096.
 */
export function svd(a: Matrix, allocate: Allocate): Svd {
  const turned = a.rows > a.columns;
  const [short, long] = turned ? [a.columns, a.rows] : [a.rows, a.columns];
  const rotation = allocateMatrix(allocate, short, short);
  const rotated = allocateMatrix(allocate, short, long);
  const values = allocate(short);
  const wide = allocateMatrix(allocate, short, long);
  const gram = allocateMatrix(allocate, short, short);
  const scratch = allocate(eigenScratch(short));
  if (turned) transpose(wide, a);
  else wide.values.set(a.values);
  gramOfRows(gram, wide);
  const eigenvalues = symmetricEigen(gram, rotation, scratch);
  sortRows(rotation, eigenvalues);
  multiply(rotated, rotation, wide);
  orthogonalise(rotated, rotation);
  for (let i = 0; i < short; i++) values[i] = Math.sqrt(dotDoubles(rowOf(rotated, i), rowOf(rotated, i)));
  sortRows(rotated, values, rotation);
  normalise(rotated, values);
  const [left, right] = turned ? [rotated, rotation] : [rotation, rotated];
  fixSigns(left, right);
  return { left, values, right };
}

/**
 * Rotates rows of `a` pair by pair until they are orthogonal, and `rotation` with them. Rows that are nothing but
 * rounding have no direction to speak of and are left alone.
 */
function orthogonalise(a: Matrix, rotation: Matrix): void {
  let largest = 0;
  for (let i = 0; i < a.rows; i++) largest = Math.max(largest, dotDoubles(rowOf(a, i), rowOf(a, i)));
  const least = NEGLIGIBLE * NEGLIGIBLE * largest;
  for (let sweep = 0; sweep < SWEEPS_MAX; sweep++) {
    let rotations = 0;
    for (let i = 0; i < a.rows; i++) {
      const x = rowOf(a, i);
      let alpha = dotDoubles(x, x);
      for (let j = i + 1; j < a.rows; j++) {
        const y = rowOf(a, j);
        const product = dotDoubles(x, y);
        const beta = dotDoubles(y, y);
        if (!(Math.abs(product) > ORTHOGONAL * Math.sqrt(alpha * beta)) || Math.min(alpha, beta) <= least) continue;
        const ratio = (beta - alpha) / (2 * product);
        const tangent = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.sqrt(1 + ratio * ratio));
        const c = 1 / Math.sqrt(1 + tangent * tangent);
        rotateRows(x, y, c, -c * tangent);
        rotateRows(rowOf(rotation, i), rowOf(rotation, j), c, -c * tangent);
        alpha = dotDoubles(x, x);
        rotations++;
      }
    }
    if (rotations === 0) return;
  }
}

/** Sorts rows by `keys`, descending, equal ones as they are; the keys and `other`'s rows with them. */
function sortRows(a: Matrix, keys: Float64Array, other?: Matrix): void {
  // Selection: each row is exchanged once at most.
  for (let i = 0; i < a.rows; i++) {
    let best = i;
    for (let j = i + 1; j < a.rows; j++) if ((keys[j] ?? 0) > (keys[best] ?? 0)) best = j;
    if (best === i) continue;
    [keys[i], keys[best]] = [keys[best] ?? 0, keys[i] ?? 0];
    for (const matrix of other === undefined ? [a] : [a, other]) exchange(rowOf(matrix, i), rowOf(matrix, best));
  }
}

function exchange(a: Float64Array, b: Float64Array): void {
  for (let i = 0; i < a.length; i++) [a[i], b[i]] = [b[i] ?? 0, a[i] ?? 0];
}

/** Rows to unit length; rows that are nothing but rounding are replaced by what is orthogonal to all before. */
function normalise(a: Matrix, values: Float64Array): void {
  const least = NEGLIGIBLE * (values[0] ?? 0);
  let axis = 0;
  for (let i = 0; i < a.rows; i++) {
    const [row, value] = [rowOf(a, i), values[i] ?? 0];
    if (value > least || Number.isNaN(value)) for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) / value;
    else axis = complete(a, i, axis);
  }
}

/**
 * Row `index` := a unit vector orthogonal to the rows before: what they leave of the first axis, from `start` on and
 * around, that has enough left. Returns the axis after it: that one has nothing left for the next row.
 */
function complete(a: Matrix, index: number, start: number): number {
  const row = rowOf(a, index);
  for (let step = 0; step < a.columns; step++) {
    const axis = (start + step) % a.columns;
    row.fill(0);
    row[axis] = 1;
    // Twice is enough (Kahan): the second time removes what rounding left.
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < index; i++) addScaledDoubles(row, rowOf(a, i), -dotDoubles(rowOf(a, i), row));
    }
    const length = Math.sqrt(dotDoubles(row, row));
    // Some axis keeps at least this much, as the squares of what is left add to the number of free directions.
    if (length * length * a.columns < (a.columns - index) / 2) continue;
    for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) / length;
    return axis + 1;
  }
  return start;
}

function fixSigns(left: Matrix, right: Matrix): void {
  for (let i = 0; i < left.rows; i++) {
    const row = rowOf(left, i);
    let largest = 0;
    for (const value of row) if (Math.abs(value) > Math.abs(largest)) largest = value;
    if (largest >= 0) continue;
    for (const values of [row, rowOf(right, i)]) for (let j = 0; j < values.length; j++) values[j] = -(values[j] ?? 0);
  }
}
