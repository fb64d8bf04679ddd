// Goal: systems with a positive definite matrix are solved within rounding, others are told apart. Method: matrices
// with known singular values, and matrices of too low a rank.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { factorCholesky, solveCholesky } from "../../../../core/ops/linalg/cholesky.ts";
import { gramOfRows, type Matrix, rowOf } from "../../../../core/ops/linalg/matrix.ts";
import { randomMatrix, withSingularValues } from "./matrices.ts";

/** a a^T for a [size, size] with `rank` singular values from 1 to 1/4. */
function gramOf(size: number, rank: number): Matrix {
  const values = Array.from({ length: rank }, (_, i) => 1 - (0.75 * i) / Math.max(1, rank - 1));
  const gram: Matrix = { rows: size, columns: size, values: new Float64Array(size * size) };
  gramOfRows(gram, withSingularValues(size, size, values));
  return gram;
}

describe("Cholesky's decomposition", () => {
  for (const size of [1, 2, 3, 8, 33, 70]) {
    test(`solves ${size} equations`, () => {
      const gram = gramOf(size, size);
      const wanted = rowOf(randomMatrix(1, size), 0);
      const vector = Float64Array.from({ length: size }, (_, i) =>
        rowOf(gram, i).reduce((sum, value, j) => sum + value * (wanted[j] ?? 0), 0),
      );
      const lower: Matrix = { ...gram, values: gram.values.slice() };
      // The upper triangle is not read.
      for (let i = 0; i < size; i++) lower.values.fill(Number.NaN, i * size + i + 1, (i + 1) * size);
      assert.equal(factorCholesky(lower), undefined);
      solveCholesky(lower, vector);
      vector.forEach((value, i) => {
        assert.ok(Math.abs(value - (wanted[i] ?? 0)) < 1e-12, `${value} at ${i}, expected ${wanted[i]}`);
      });
    });
  }

  test("names the first row that depends on those before it", () => {
    for (const rank of [0, 1, 5]) assert.equal(factorCholesky(gramOf(9, rank)), rank);
    const negative: Matrix = { rows: 2, columns: 2, values: Float64Array.of(1, 2, 2, 1) };
    assert.equal(factorCholesky(negative), 1);
    const unknown: Matrix = { rows: 2, columns: 2, values: Float64Array.of(1, Number.NaN, Number.NaN, 1) };
    assert.equal(factorCholesky(unknown), 1);
  });
});
