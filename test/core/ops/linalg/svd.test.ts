// Goal: the singular value decomposition is one, for every shape and rank, and always the same bits. Method: matrices
// with known singular values: reconstruction, orthogonality, order and signs, each within a few roundings.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { dotDoubles, type Matrix, onHeap, rowOf, transpose } from "../../../../core/ops/linalg/matrix.ts";
import { orthogonalPart } from "../../../../core/ops/linalg/orthogonal.ts";
import { svd } from "../../../../core/ops/linalg/svd.ts";
import { randomMatrix, withSingularValues } from "./matrices.ts";

/** Shapes with the singular values that they are given; the rest are 0. */
const CASES: readonly (readonly [rows: number, columns: number, values: readonly number[]])[] = [
  [1, 1, [3]],
  [1, 1, [0]],
  [1, 7, [2]],
  [7, 1, [2]],
  [2, 2, [1, 1]],
  [3, 3, []],
  [8, 13, [5, 4, 3, 2, 1, 0.5, 0.25, 0.125]],
  [13, 8, [5, 5, 5]],
  [20, 20, [1]],
  [33, 70, Array.from({ length: 33 }, (_, i) => 10 ** (-i / 3))],
  [70, 33, Array.from({ length: 20 }, (_, i) => 2 + Math.sin(i))],
  [64, 64, Array.from({ length: 64 }, (_, i) => 1e-20 * 2 ** -i)],
];

describe("svd", () => {
  for (const [rows, columns, wanted] of CASES) {
    test(`of ${rows} x ${columns} with ${wanted.length} singular values`, () => {
      const matrix = withSingularValues(rows, columns, wanted);
      const { left, values, right } = svd(matrix, onHeap);
      const largest = wanted.reduce((most, value) => Math.max(most, value), 0);
      const size = Math.min(rows, columns);
      assert.deepEqual([left.rows, left.columns, right.rows, right.columns], [size, rows, size, columns]);
      const sorted = [...wanted].sort((a, b) => b - a);
      for (let i = 0; i < size; i++) {
        assert.ok(Math.abs((values[i] ?? 0) - (sorted[i] ?? 0)) <= 1e-13 * largest, `value ${i} is ${values[i]}`);
        assert.ok(i === 0 || (values[i - 1] ?? 0) >= (values[i] ?? 0), "descending");
      }
      assertOrthonormal(left);
      assertOrthonormal(right);
      assertClose(rebuild(left, values, right), matrix, 1e-13 * largest);
      for (let i = 0; i < size; i++) assert.ok(largestOf(rowOf(left, i)) > 0, "the largest element is positive");
      assert.deepEqual(svd(matrix, onHeap), { left, values, right });
    });
  }

  test("small singular values are accurate where the Gram matrix alone has lost them", () => {
    const matrix = withSingularValues(30, 40, [1, 1e-6, 1e-9, 1e-11]);
    const { values } = svd(matrix, onHeap);
    [1, 1e-6, 1e-9, 1e-11].forEach((value, i) => {
      assert.ok(Math.abs((values[i] ?? 0) - value) <= 1e-14 + 1e-4 * value, `value ${i} is ${values[i]}`);
    });
  });

  test("a matrix turned has the same values, and its vectors on the other side", () => {
    const matrix = randomMatrix(17, 29);
    const turned = randomMatrix(29, 17);
    transpose(turned, matrix);
    const [a, b] = [svd(matrix, onHeap), svd(turned, onHeap)];
    assert.deepEqual(a.values, b.values);
    for (let i = 0; i < 17; i++) {
      const cosine = dotDoubles(rowOf(a.left, i), rowOf(b.right, i));
      assert.ok(Math.abs(Math.abs(cosine) - 1) < 1e-12);
    }
  });

  test("values that are not numbers end it all the same", () => {
    const matrix = randomMatrix(6, 9);
    matrix.values[3] = Number.NaN;
    assert.ok(svd(matrix, onHeap).values.some(Number.isNaN));
  });
});

describe("orthogonalPart", () => {
  for (const [rows, columns] of [
    [5, 9],
    [9, 5],
    [6, 6],
  ] as const) {
    test(`of ${rows} x ${columns} keeps what is orthonormal and is so itself`, () => {
      const matrix = randomMatrix(rows, columns);
      orthogonalPart(matrix, onHeap);
      const again: Matrix = { ...matrix, values: matrix.values.slice() };
      orthogonalPart(again, onHeap);
      assertClose(again, matrix, 1e-13);
      const tall: Matrix = randomMatrix(columns, rows);
      transpose(tall, matrix);
      assertOrthonormal(rows <= columns ? matrix : tall);
    });
  }
});

function rebuild(left: Matrix, values: Float64Array, right: Matrix): Matrix {
  const out = new Float64Array(left.columns * right.columns);
  for (let i = 0; i < left.columns; i++) {
    for (let j = 0; j < right.columns; j++) {
      let sum = 0;
      for (let t = 0; t < left.rows; t++) {
        sum += (rowOf(left, t)[i] ?? 0) * (values[t] ?? 0) * (rowOf(right, t)[j] ?? 0);
      }
      out[i * right.columns + j] = sum;
    }
  }
  return { rows: left.columns, columns: right.columns, values: out };
}

function largestOf(row: Float64Array): number {
  return row.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
}

function assertOrthonormal(matrix: Matrix): void {
  for (let i = 0; i < matrix.rows; i++) {
    for (let j = 0; j <= i; j++) {
      const product = dotDoubles(rowOf(matrix, i), rowOf(matrix, j));
      assert.ok(Math.abs(product - (i === j ? 1 : 0)) < 2e-13, `rows ${i} and ${j}: ${product}`);
    }
  }
}

function assertClose(a: Matrix, b: Matrix, bound: number): void {
  a.values.forEach((value, i) => {
    assert.ok(Math.abs(value - (b.values[i] ?? 0)) <= bound, `element ${i}: ${value}, not ${b.values[i]}`);
  });
}
