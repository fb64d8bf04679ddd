// The data-free part of MC-SMoE's compression: a matrix as its best low-rank part and the rows of what is left that
// matter most.
// Source: Li et al., arXiv:2310.01334; merge reference section 11 step 6.
import { firstRows, type Matrix, onHeap, rowOf } from "../ops/linalg/matrix.ts";
import { outerProducts } from "../ops/linalg/orthogonal.ts";
import { svd } from "../ops/linalg/svd.ts";

export type CompressOptions = {
  /** Parameters of the two factors, as a share of the matrix's. */
  readonly rankRatio: number;
  /** Share of the rows of the residual that is kept. */
  readonly residualRatio: number;
};

/** ceil(ratio h w / (h + w)), at most the shorter side. */
export function rankOf({ rows, columns }: Matrix, { rankRatio }: CompressOptions): number {
  return Math.min(rows, columns, Math.ceil((rankRatio * rows * columns) / (rows + columns)));
}

/** Overwrites `matrix` with its low-rank part and the residual's rows of the largest mean magnitude. */
export function compressMatrix(matrix: Matrix, options: CompressOptions): void {
  const { left, values, right } = svd(matrix, onHeap);
  const rank = rankOf(matrix, options);
  const scaled = firstRows(left, rank);
  for (let i = 0; i < rank; i++) {
    const row = rowOf(scaled, i);
    for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) * (values[i] ?? 0);
  }
  const low: Matrix = { ...matrix, values: onHeap(matrix.values.length) };
  outerProducts(low, scaled, firstRows(right, rank), onHeap);
  const weight = Array.from({ length: matrix.rows }, (_, i) => {
    const [whole, part] = [rowOf(matrix, i), rowOf(low, i)];
    return whole.reduce((sum, value, j) => sum + Math.abs(value - (part[j] ?? 0)), 0);
  });
  const order = weight.map((_, i) => i).sort((a, b) => (weight[b] ?? 0) - (weight[a] ?? 0) || a - b);
  for (const i of order.slice(Math.round(options.residualRatio * matrix.rows))) rowOf(matrix, i).set(rowOf(low, i));
}
