// Low rank and sparse: a matrix as the product of two thin ones and, for each row, the few entries that the product
// misses most. Written for this program's own reader; servers need the matrix put together again.
// Source: LoSparse, arXiv:2306.11222, without its training; range finder of Halko, Martinsson and Tropp,
// arXiv:0909.4061; quantization reference section 14.
import { viewOf } from "../data-view.ts";
import { allocateMatrix, type Matrix as Dense, firstRows, multiply, onHeap, transposed } from "../ops/linalg/matrix.ts";
import { orthogonalPart } from "../ops/linalg/orthogonal.ts";
import { svd } from "../ops/linalg/svd.ts";
import { streamKey, uniformAt } from "../random.ts";
import { ROUNDINGS } from "./rounding.ts";
import { type Matrix, type PartScheme, partOf } from "./scheme.ts";

/** The rank, as a share of the smaller side, and the entries that each row keeps, as a share of its columns. */
const RANK_SHARE = 1 / 8;
const KEPT_SHARE = 1 / 32;
/** Directions beyond the rank, and power steps, of the range finder. */
const OVERSAMPLED = 8;
const POWER_STEPS = 2;
/** Rounds of fitting the product to what the kept entries leave, and the entries to what the product leaves. */
const ROUNDS = 3;

const START = streamKey(0, "low rank and sparse");

function rankOf({ rows, columns }: Matrix): number {
  return Math.max(1, Math.floor(Math.min(rows, columns) * RANK_SHARE));
}

function keptOf({ columns }: Matrix): number {
  return Math.max(1, Math.floor(columns * KEPT_SHARE));
}

function product(a: Dense, b: Dense): Dense {
  const target = allocateMatrix(onHeap, a.rows, b.columns);
  multiply(target, a, b);
  return target;
}

/** Orthonormal rows that span what these rows span. */
function orthonormal(rows: Dense): Dense {
  orthogonalPart(rows, onHeap);
  return rows;
}

/** U [rows, rank] and V [rank, columns] whose product is close to the matrix. */
function factor(matrix: Dense, rank: number): { readonly u: Dense; readonly v: Dense } {
  const width = Math.min(rank + OVERSAMPLED, matrix.rows, matrix.columns);
  const turned = transposed(matrix);
  // The same start for every matrix, so that the same weights give the same factors.
  const start = Float64Array.from({ length: width * matrix.columns }, (_, i) => uniformAt(START, i) - 0.5);
  let range = orthonormal(product({ rows: width, columns: matrix.columns, values: start }, turned));
  for (let step = 0; step < POWER_STEPS; step++) {
    range = orthonormal(product(orthonormal(product(range, matrix)), turned));
  }
  const inner = product(range, matrix);
  const chosen = firstRows(svd(inner, onHeap).left, rank);
  return { u: transposed(product(chosen, range)), v: product(chosen, inner) };
}

function rounded({ rows, columns, values }: Dense, round: (value: number) => number): Dense {
  return { rows, columns, values: values.map(round) };
}

/** Columns of the entries of a row that are largest; of equals, the earlier; in ascending order. */
function largestColumns(row: Float64Array, count: number): Uint32Array {
  const columns = Uint32Array.from(row, (_, i) => i);
  columns.sort((a, b) => Math.abs(row[b] ?? 0) - Math.abs(row[a] ?? 0) || a - b);
  return columns.slice(0, count).sort();
}

/** x ~ U V + S. U, V and the kept entries have the weights' dtype; S keeps as many entries in every row. */
export const lowRankSparse = Object.freeze({
  id: "low_rank_sparse",
  title: "rank an eighth of the smaller side, and the largest 1/32 of each row of the rest",
  source: "LoSparse, arXiv:2306.11222, without training",
  needs: "tensor",
  measures: "nothing",
  hessian: "ignored",
  form: undefined,
  columnUnit: 1,
  rowsTogether: () => 1,
  parts(matrix) {
    const { rows, columns, dtype } = matrix;
    const [rank, kept] = [rankOf(matrix), keptOf(matrix)];
    const along = { slices: 1, rows: 1 };
    return [
      { name: "weight_u", dtype, shape: [rows, rank], along },
      { name: "weight_v", dtype, shape: [rank, columns], along: undefined },
      { name: "weight_sparse", dtype, shape: [rows, kept], along },
      { name: "weight_sparse_columns", dtype: "I32", shape: [rows, kept], along },
    ];
  },
  quantize(window) {
    const { matrix, values } = window;
    const { rows, columns } = matrix;
    const { round, write } = ROUNDINGS[matrix.dtype];
    const [rank, kept] = [rankOf(matrix), keptOf(matrix)];
    const rest = { rows, columns, values: Float64Array.from(values) };
    const places = new Uint32Array(rows * kept);
    let factors = factor(rest, rank);
    for (let turn = 0; turn < ROUNDS; turn++) {
      if (turn > 0) factors = factor(rest, rank);
      factors = { u: rounded(factors.u, round), v: rounded(factors.v, round) };
      const fitted = product(factors.u, factors.v).values;
      rest.values.set(values);
      for (let row = 0; row < rows; row++) {
        const [first, end] = [row * columns, (row + 1) * columns];
        const missed = fitted.subarray(first, end).map((value, i) => (values[first + i] ?? 0) - value);
        const chosen = largestColumns(missed, kept);
        places.set(chosen, row * kept);
        // The next product need not fit what is kept beside it.
        for (const column of chosen) rest.values[first + column] = fitted[first + column] ?? 0;
      }
    }
    const fitted = product(factors.u, factors.v).values;
    const [u, v] = [viewOf(partOf(window, "weight_u")), viewOf(partOf(window, "weight_v"))];
    factors.u.values.forEach((value, i) => void write(u, i, value));
    factors.v.values.forEach((value, i) => void write(v, i, value));
    const [entries, index] = [viewOf(partOf(window, "weight_sparse")), viewOf(partOf(window, "weight_sparse_columns"))];
    places.forEach((column, i) => {
      const at = Math.floor(i / kept) * columns + column;
      index.setInt32(4 * i, column, true);
      write(entries, i, (values[at] ?? 0) - (fitted[at] ?? 0));
    });
  },
  dequantize(window) {
    const { matrix, count, values } = window;
    const { read } = ROUNDINGS[matrix.dtype];
    const [rank, kept] = [rankOf(matrix), keptOf(matrix)];
    const take = (name: string, rows: number, columns: number): Dense => {
      const view = viewOf(partOf(window, name));
      return { rows, columns, values: Float64Array.from({ length: rows * columns }, (_, i) => read(view, i)) };
    };
    const restored = product(take("weight_u", count, rank), take("weight_v", rank, matrix.columns)).values;
    const [entries, index] = [viewOf(partOf(window, "weight_sparse")), viewOf(partOf(window, "weight_sparse_columns"))];
    for (let i = 0; i < count * kept; i++) {
      const at = Math.floor(i / kept) * matrix.columns + index.getInt32(4 * i, true);
      restored[at] = (restored[at] ?? 0) + read(entries, i);
    }
    values.set(restored);
  },
  limits: undefined,
} satisfies PartScheme);
