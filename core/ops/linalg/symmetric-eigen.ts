// Eigenvectors of a symmetric matrix: Householder reflections to a tridiagonal one, then implicit QR steps with
// Wilkinson's shift. Vectors are rows, so that every inner loop runs along memory.
// Source: Golub and Van Loan, Matrix Computations, sections 8.3.1 and 8.3.5.
import { addScaledDoubles, dotDoubles, type Matrix, rowOf } from "./matrix.ts";

/** Steps that are tried for each eigenvalue; two or three are usual. */
const STEPS_EACH_MAX = 40;

/** Doubles of scratch that `symmetricEigen` takes. */
export function eigenScratch(size: number): number {
  return 3 * size;
}

/**
 * Overwrites `vectors` = V, n x n, with V A V^T nearly diagonal: row i is an eigenvector of the symmetric `a`, which is
 * overwritten too. Returns the eigenvalues, in no order, as the first n values of `scratch`. About 8 n^3 operations.
 * Rows are orthonormal to rounding even where the steps were not enough.
 */
export function symmetricEigen(a: Matrix, vectors: Matrix, scratch: Float64Array): Float64Array {
  const size = a.rows;
  const [diagonal, off, work] = [0, 1, 2].map((part) => scratch.subarray(part * size, (part + 1) * size));
  if (diagonal === undefined || off === undefined || work === undefined) return scratch.subarray(0, 0);
  tridiagonalise(a, diagonal, off, work);
  formReflections(a, vectors, work);
  iterate(diagonal, off, vectors);
  return diagonal;
}

/**
 * A = H T H^T with T tridiagonal; the reflection of step k stays in row k of `a` from column k + 1 on, as a vector v of
 * H_k = I - v v^T (v^T v = 2, or 0 for none).
 */
function tridiagonalise(a: Matrix, diagonal: Float64Array, off: Float64Array, work: Float64Array): void {
  const size = a.rows;
  for (let k = 0; k < size; k++) {
    diagonal[k] = a.values[k * size + k] ?? 0;
    const v = rowOf(a, k).subarray(k + 1);
    off[k] = v.length === 0 ? 0 : reflect(v);
    if (v.length === 0 || v[0] === 0) continue;
    const p = work.subarray(0, v.length);
    for (let i = 0; i < v.length; i++) p[i] = dotDoubles(rowOf(a, k + 1 + i).subarray(k + 1), v);
    addScaledDoubles(p, v, -dotDoubles(p, v) / 2);
    for (let i = 0; i < v.length; i++) {
      const row = rowOf(a, k + 1 + i).subarray(k + 1);
      addScaledDoubles(row, p, -(v[i] ?? 0));
      addScaledDoubles(row, v, -(p[i] ?? 0));
    }
  }
}

/** Overwrites x with v, where (I - v v^T) x = (r, 0, ...); returns r. Nothing is done where x already has that form. */
function reflect(x: Float64Array): number {
  const first = x[0] ?? 0;
  const length = Math.sqrt(dotDoubles(x, x));
  const rest = x.subarray(1);
  if (dotDoubles(rest, rest) === 0) {
    x.fill(0);
    return first;
  }
  const target = first > 0 ? -length : length;
  x[0] = first - target;
  const factor = Math.sqrt(2 / dotDoubles(x, x));
  for (let i = 0; i < x.length; i++) x[i] = (x[i] ?? 0) * factor;
  return target;
}

/** vectors = (H_0 H_1 ...)^T, built from the last reflection on. */
function formReflections(a: Matrix, vectors: Matrix, work: Float64Array): void {
  const size = a.rows;
  vectors.values.fill(0);
  for (let i = 0; i < size; i++) vectors.values[i * size + i] = 1;
  for (let k = size - 2; k >= 0; k--) {
    const v = rowOf(a, k).subarray(k + 1);
    if (v[0] === 0) continue;
    for (let i = 0; i < v.length; i++) {
      const row = rowOf(vectors, k + 1 + i).subarray(k + 1);
      work[i] = dotDoubles(row, v);
    }
    // Q := H Q keeps its leading block, so its transpose is multiplied from the right.
    for (let i = 0; i < v.length; i++) addScaledDoubles(rowOf(vectors, k + 1 + i).subarray(k + 1), v, -(work[i] ?? 0));
  }
}

/** Implicit QR steps until every off-diagonal element is negligible; rotations are applied to the rows of `vectors`. */
function iterate(diagonal: Float64Array, off: Float64Array, vectors: Matrix): void {
  let end = diagonal.length - 1;
  for (let steps = STEPS_EACH_MAX * diagonal.length; end > 0 && steps > 0; steps--) {
    if (isNegligible(diagonal, off, end - 1)) {
      off[end - 1] = 0;
      end--;
      continue;
    }
    let start = end - 1;
    while (start > 0 && !isNegligible(diagonal, off, start - 1)) start--;
    if (start > 0) off[start - 1] = 0;
    chase(diagonal, off, vectors, start, end);
  }
}

function isNegligible(diagonal: Float64Array, off: Float64Array, index: number): boolean {
  const scale = Math.abs(diagonal[index] ?? 0) + Math.abs(diagonal[index + 1] ?? 0);
  return Math.abs(off[index] ?? 0) <= Number.EPSILON * scale;
}

/** One step with Wilkinson's shift on the block [start, end]: a bulge is chased down the diagonal. */
function chase(d: Float64Array, e: Float64Array, vectors: Matrix, start: number, end: number): void {
  const [last, before, below] = [d[end] ?? 0, d[end - 1] ?? 0, e[end - 1] ?? 0];
  const half = (before - last) / 2;
  const root = Math.sqrt(half * half + below * below);
  const shift = last - (below * below) / (half + (half < 0 ? -root : root));
  let x = (d[start] ?? 0) - shift;
  let z = e[start] ?? 0;
  for (let k = start; k < end; k++) {
    const length = Math.sqrt(x * x + z * z);
    const c = length === 0 ? 1 : x / length;
    const s = length === 0 ? 0 : z / length;
    if (k > start) e[k - 1] = length;
    const [dk, dn, ek] = [d[k] ?? 0, d[k + 1] ?? 0, e[k] ?? 0];
    d[k] = c * c * dk + 2 * c * s * ek + s * s * dn;
    d[k + 1] = s * s * dk - 2 * c * s * ek + c * c * dn;
    e[k] = c * s * (dn - dk) + (c * c - s * s) * ek;
    x = e[k] ?? 0;
    z = k + 1 < end ? s * (e[k + 1] ?? 0) : 0;
    if (k + 1 < end) e[k + 1] = c * (e[k + 1] ?? 0);
    rotateRows(rowOf(vectors, k), rowOf(vectors, k + 1), c, s);
  }
}

/** (a, b) := (c a + s b, c b - s a). */
export function rotateRows(a: Float64Array, b: Float64Array, c: number, s: number): void {
  for (let i = 0; i < a.length; i++) {
    const x = a[i] ?? 0;
    const y = b[i] ?? 0;
    a[i] = c * x + s * y;
    b[i] = c * y - s * x;
  }
}
