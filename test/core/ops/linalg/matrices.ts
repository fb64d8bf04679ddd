// Matrices for the tests of linear algebra: plain random ones, and ones with known singular values.
import type { Matrix } from "../../../../core/ops/linalg/matrix.ts";
import { uniforms } from "../../../random-numbers.ts";

/** Values between -1/2 and 1/2, the same for the same shape. */
export function randomMatrix(rows: number, columns: number): Matrix {
  const next = uniforms(rows * 7919 + columns);
  return { rows, columns, values: Float64Array.from({ length: rows * columns }, () => next() - 0.5) };
}

/** diag(values) between two products of reflections, whose entries no factor has in common. */
export function withSingularValues(rows: number, columns: number, singular: readonly number[]): Matrix {
  const matrix: Matrix = { rows, columns, values: new Float64Array(rows * columns) };
  singular.forEach((value, i) => {
    matrix.values[i * columns + i] = value;
  });
  const [forRows, forColumns] = [randomMatrix(3, rows), randomMatrix(3, columns)];
  for (let round = 0; round < 3; round++) {
    const [u, v] = [unit(forRows, round), unit(forColumns, round)];
    for (let j = 0; j < columns; j++) {
      reflect(
        u,
        (i) => matrix.values[i * columns + j] ?? 0,
        (i, x) => {
          matrix.values[i * columns + j] = x;
        },
      );
    }
    for (let i = 0; i < rows; i++) {
      reflect(
        v,
        (j) => matrix.values[i * columns + j] ?? 0,
        (j, x) => {
          matrix.values[i * columns + j] = x;
        },
      );
    }
  }
  return matrix;
}

function unit({ columns, values }: Matrix, row: number): readonly number[] {
  const own = [...values.subarray(row * columns, (row + 1) * columns)];
  const length = Math.sqrt(own.reduce((sum, value) => sum + value * value, 0));
  return own.map((value) => value / length);
}

/** x := x - 2 u (u . x). */
function reflect(u: readonly number[], get: (i: number) => number, set: (i: number, value: number) => void): void {
  const product = u.reduce((sum, value, i) => sum + value * get(i), 0);
  u.forEach((value, i) => {
    set(i, get(i) - 2 * product * value);
  });
}
