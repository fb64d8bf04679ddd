// The product of matrices of doubles that solving for a layer's weights is made of, in plain TypeScript. The order of
// the terms is part of the meaning; how matrices are cut for the cache is not.

/** A part of a matrix, row by row: its first element is `values[0]`, and `stride` elements lie between rows. */
export type Doubles = { readonly values: Float64Array; readonly stride: number };

/** A [rows, inner] times a [inner, columns]; added, or with the sign -1 taken away. */
export type ProductShape = {
  readonly rows: number;
  readonly inner: number;
  readonly columns: number;
  readonly sign: 1 | -1;
};

export type MatrixProduct = {
  /**
   * target[i, j] = ((target[i, j] + (sign a[i, 0]) b[0, j]) + (sign a[i, 1]) b[1, j]) + ..., every product and sum
   * rounded to float64. The target overlaps neither factor. WebAssembly asks for values in the kernel set's own memory.
   */
  addMatrixProduct(target: Doubles, a: Doubles, b: Doubles, shape: ProductShape): void;
};

/** Rows and columns of b that stay in the processor's cache while all of a passes by. */
const PART_ROWS = 64;
const PART_COLUMNS = 256;

export const scalarMatrixProduct: MatrixProduct = Object.freeze({
  addMatrixProduct(target, a, b, shape) {
    const { rows, inner, columns } = shape;
    for (let from = 0; from < inner; from += PART_ROWS) {
      const to = Math.min(inner, from + PART_ROWS);
      for (let column = 0; column < columns; column += PART_COLUMNS) {
        const part = { from, to, column, count: Math.min(PART_COLUMNS, columns - column), sign: shape.sign };
        const pairs = rows - (rows % 2);
        for (let i = 0; i < pairs; i += 2) addToPair(target, a, b, i, part);
        if (pairs < rows) addToRow(target, a, b, pairs, part);
      }
    }
  },
} satisfies MatrixProduct);

/** Rows from `from` to `to` of b, `count` columns of them from `column` on. */
type Part = {
  readonly from: number;
  readonly to: number;
  readonly column: number;
  readonly count: number;
  readonly sign: number;
};

/** Rows i and i + 1 of the target; four rows of b are read at a time. */
function addToPair(target: Doubles, a: Doubles, b: Doubles, i: number, part: Part): void {
  const { from, to, column, count, sign } = part;
  const [t, x, y] = [target.values, a.values, b.values];
  const upper = i * target.stride + column;
  const lower = upper + target.stride;
  const fours = to - ((to - from) % 4);
  for (let k = from; k < fours; k += 4) {
    const [first, second] = [i * a.stride + k, (i + 1) * a.stride + k];
    const [f0, f1] = [sign * (x[first] ?? 0), sign * (x[first + 1] ?? 0)];
    const [f2, f3] = [sign * (x[first + 2] ?? 0), sign * (x[first + 3] ?? 0)];
    const [g0, g1] = [sign * (x[second] ?? 0), sign * (x[second + 1] ?? 0)];
    const [g2, g3] = [sign * (x[second + 2] ?? 0), sign * (x[second + 3] ?? 0)];
    const r0 = k * b.stride + column;
    const [r1, r2, r3] = [r0 + b.stride, r0 + 2 * b.stride, r0 + 3 * b.stride];
    for (let j = 0; j < count; j++) {
      const y0 = y[r0 + j] ?? 0;
      const y1 = y[r1 + j] ?? 0;
      const y2 = y[r2 + j] ?? 0;
      const y3 = y[r3 + j] ?? 0;
      t[upper + j] = (t[upper + j] ?? 0) + f0 * y0 + f1 * y1 + f2 * y2 + f3 * y3;
      t[lower + j] = (t[lower + j] ?? 0) + g0 * y0 + g1 * y1 + g2 * y2 + g3 * y3;
    }
  }
  for (const row of [i, i + 1]) addToRow(target, a, b, row, { ...part, from: fours });
}

/** Row i of the target, one row of b at a time. */
function addToRow(target: Doubles, a: Doubles, b: Doubles, i: number, part: Part): void {
  const { from, to, column, count, sign } = part;
  const [t, y] = [target.values, b.values];
  const own = i * target.stride + column;
  for (let k = from; k < to; k++) {
    const factor = sign * (a.values[i * a.stride + k] ?? 0);
    const row = k * b.stride + column;
    for (let j = 0; j < count; j++) t[own + j] = (t[own + j] ?? 0) + factor * (y[row + j] ?? 0);
  }
}
