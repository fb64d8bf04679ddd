// Goal: systems with a positive definite matrix are solved within rounding, others are told apart. Method: matrices
// with known singular values, and matrices of too low a rank.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { factorCholesky, solveCholesky } from "../../../../core/ops/linalg/cholesky.ts";
import { gramOfRows, type Matrix, multiply } from "../../../../core/ops/linalg/matrix.ts";
import { scalarMatrixProduct } from "../../../../core/ops/matrix-product.ts";
import { randomMatrix, withSingularValues } from "./matrices.ts";

/** a a^T for a [size, size] with `rank` singular values from 1 to 1/4. */
function gramOf(size: number, rank: number): Matrix {
  const values = Array.from({ length: rank }, (_, i) => 1 - (0.75 * i) / Math.max(1, rank - 1));
  const gram: Matrix = { rows: size, columns: size, values: new Float64Array(size * size) };
  gramOfRows(gram, withSingularValues(size, size, values));
  return gram;
}

describe("Cholesky's decomposition", () => {
  // Around one, two and three blocks of rows.
  for (const size of [1, 2, 3, 8, 63, 64, 65, 127, 128, 129, 193]) {
    test(`solves ${size} equations, for several right sides`, () => {
      const gram = gramOf(size, size);
      const wanted = randomMatrix(3, size);
      const target: Matrix = { rows: 3, columns: size, values: new Float64Array(3 * size) };
      multiply(target, wanted, gram);
      const lower: Matrix = { ...gram, values: gram.values.slice() };
      // The upper triangle is not read.
      for (let i = 0; i < size; i++) lower.values.fill(Number.NaN, i * size + i + 1, (i + 1) * size);
      assert.equal(factorCholesky(lower, scalarMatrixProduct), undefined);
      solveCholesky(lower, target, scalarMatrixProduct);
      target.values.forEach((value, i) => {
        const expected = wanted.values[i] ?? 0;
        assert.ok(Math.abs(value - expected) < 1e-11, `${value} at ${i}, expected ${expected}`);
      });
    });
  }

  test("names the first row that depends on those before it", () => {
    const failedOf = (matrix: Matrix) => factorCholesky(matrix, scalarMatrixProduct);
    for (const rank of [0, 1, 5]) assert.equal(failedOf(gramOf(9, rank)), rank);
    for (const rank of [63, 64, 100]) assert.equal(failedOf(gramOf(130, rank)), rank);
    const negative: Matrix = { rows: 2, columns: 2, values: Float64Array.of(1, 2, 2, 1) };
    assert.equal(failedOf(negative), 1);
    const unknown: Matrix = { rows: 2, columns: 2, values: Float64Array.of(1, Number.NaN, Number.NaN, 1) };
    assert.equal(failedOf(unknown), 1);
  });
});
