// The linear assignment problem, by shortest augmenting paths with dual prices. Used to match units of one model with
// those of another.
// Source: Jonker and Volgenant 1987; Crouse, On implementing 2D rectangular assignment algorithms, 2016, whose order of
// ties this keeps.
import assert from "node:assert/strict";
import type { Matrix } from "./matrix.ts";

/** What one search works on; by row or by column. */
type Search = {
  readonly score: Matrix;
  readonly rowPrice: Float64Array;
  readonly columnPrice: Float64Array;
  readonly columnOf: Int32Array;
  readonly rowOf: Int32Array;
  readonly distance: Float64Array;
  readonly before: Int32Array;
  readonly rowSeen: Uint8Array;
  readonly columnSeen: Uint8Array;
  readonly open: Int32Array;
};

/**
 * The permutation c that maximises the sum of score[r, c[r]] over rows r, for a square matrix of finite scores. Of
 * equal optima always the same one. Time grows with the cube of the size at worst: about a second for 1000 rows.
 */
export function assignRows(score: Matrix): Int32Array {
  const size = score.rows;
  assert.equal(score.columns, size, "as many rows as columns");
  const search: Search = {
    score,
    rowPrice: new Float64Array(size),
    columnPrice: new Float64Array(size),
    columnOf: new Int32Array(size).fill(-1),
    rowOf: new Int32Array(size).fill(-1),
    distance: new Float64Array(size),
    before: new Int32Array(size),
    rowSeen: new Uint8Array(size),
    columnSeen: new Uint8Array(size),
    open: new Int32Array(size),
  };
  for (let row = 0; row < size; row++) augment(search, row);
  return search.columnOf;
}

/** Finds the cheapest way to give `start` a column, moving other rows where that pays, and takes it. */
function augment(search: Search, start: number): void {
  const { rowPrice, columnPrice, columnOf, rowOf, distance, before, rowSeen, columnSeen } = search;
  const { end, length } = findPath(search, start);
  rowPrice[start] = (rowPrice[start] ?? 0) + length;
  for (let row = 0; row < rowPrice.length; row++) {
    if (row === start || rowSeen[row] !== 1) continue;
    rowPrice[row] = (rowPrice[row] ?? 0) + length - (distance[columnOf[row] ?? 0] ?? 0);
  }
  for (let column = 0; column < columnPrice.length; column++) {
    if (columnSeen[column] === 1) columnPrice[column] = (columnPrice[column] ?? 0) - length + (distance[column] ?? 0);
  }
  for (let column = end; ; ) {
    const row = before[column] ?? 0;
    rowOf[column] = row;
    const next = columnOf[row] ?? -1;
    columnOf[row] = column;
    if (row === start) return;
    column = next;
  }
}

/** The free column at the end of the shortest path from a row, and the path's length in reduced costs. */
function findPath(search: Search, start: number): { readonly end: number; readonly length: number } {
  const { score, rowPrice, columnPrice, rowOf, distance, before, rowSeen, columnSeen, open } = search;
  const size = score.rows;
  rowSeen.fill(0);
  columnSeen.fill(0);
  distance.fill(Number.POSITIVE_INFINITY);
  // Columns from the last to the first, so that the lowest index wins where all else is equal.
  for (let i = 0; i < size; i++) open[i] = size - 1 - i;
  let [row, length, left] = [start, 0, size];
  for (;;) {
    rowSeen[row] = 1;
    let [best, lowest] = [-1, Number.POSITIVE_INFINITY];
    for (let at = 0; at < left; at++) {
      const column = open[at] ?? 0;
      const cost = -(score.values[row * size + column] ?? 0);
      const through = length + cost - (rowPrice[row] ?? 0) - (columnPrice[column] ?? 0);
      if (through < (distance[column] ?? 0)) {
        distance[column] = through;
        before[column] = row;
      }
      const own = distance[column] ?? 0;
      if (own < lowest || (own === lowest && rowOf[column] === -1)) [best, lowest] = [at, own];
    }
    assert.ok(best >= 0, "scores are finite");
    length = lowest;
    const column = open[best] ?? 0;
    columnSeen[column] = 1;
    open[best] = open[--left] ?? 0;
    const holder = rowOf[column] ?? -1;
    if (holder === -1) return { end: column, length };
    row = holder;
  }
}
