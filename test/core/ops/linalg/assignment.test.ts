// Goal: assignments are optimal and always the same. Method: every permutation of small matrices, and hidden
// permutations of larger ones.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assignRows } from "../../../../core/ops/linalg/assignment.ts";
import type { Matrix } from "../../../../core/ops/linalg/matrix.ts";
import { randomMatrix } from "./matrices.ts";

function permutationsOf(items: readonly number[]): number[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((first) =>
    permutationsOf(items.filter((item) => item !== first)).map((rest) => [first, ...rest]),
  );
}

function total({ columns, values }: Matrix, permutation: ArrayLike<number>): number {
  return Array.from(permutation).reduce((sum, column, row) => sum + (values[row * columns + column] ?? 0), 0);
}

describe("assignRows", () => {
  test("is the best of all permutations, of scores with many equal ones too", () => {
    for (const size of [0, 1, 2, 3, 5, 6]) {
      for (const steps of [2, 4, 1000]) {
        const random = randomMatrix(size, size);
        const score = { ...random, values: random.values.map((value) => Math.round(value * steps)) };
        const found = assignRows(score);
        assert.deepEqual(
          [...found].sort(),
          Array.from({ length: size }, (_, i) => i),
        );
        const best = Math.max(...permutationsOf([...found].sort()).map((own) => total(score, own)));
        assert.equal(total(score, found), best);
        assert.deepEqual(assignRows(score), found);
      }
    }
  });

  test("finds a hidden permutation", () => {
    const size = 150;
    const hidden = Array.from({ length: size }, (_, i) => (i * 77 + 5) % size);
    const score = randomMatrix(size, size);
    hidden.forEach((column, row) => {
      score.values[row * size + column] = 1;
    });
    assert.deepEqual([...assignRows(score)], hidden);
  });

  test("of equal scores keeps the order", () => {
    assert.deepEqual([...assignRows({ rows: 4, columns: 4, values: new Float64Array(16) })], [0, 1, 2, 3]);
  });
});
