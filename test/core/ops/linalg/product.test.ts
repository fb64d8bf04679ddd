// Goal: a product has the same bits however it is cut for the cache. Method: shapes around every boundary, against the
// sum of one row at a time.
import assert from "node:assert/strict";
import { test } from "node:test";
import { addCombination, addProduct, allocateMatrix, onHeap, rowOf } from "../../../../core/ops/linalg/matrix.ts";
import { scalarMatrixProduct } from "../../../../core/ops/matrix-product.ts";
import { plainNumbers } from "../../../random-numbers.ts";

test("a product's bits are those of rows combined one by one", () => {
  for (const rows of [1, 2, 3]) {
    for (const inner of [1, 4, 7, 64, 67, 130]) {
      for (const columns of [1, 255, 256, 259]) {
        const [a, b] = [allocateMatrix(onHeap, rows, inner), allocateMatrix(onHeap, inner, columns)];
        const [product, expected] = [allocateMatrix(onHeap, rows, columns), allocateMatrix(onHeap, rows, columns)];
        a.values.set(plainNumbers(rows * inner, 1));
        b.values.set(plainNumbers(inner * columns, 2));
        for (const { values } of [product, expected]) values.fill(0.5);
        addProduct(product, a, b, scalarMatrixProduct);
        for (let i = 0; i < rows; i++) addCombination(rowOf(expected, i), rowOf(a, i), b);
        assert.deepEqual(product.values, expected.values, `[${rows}, ${inner}] [${inner}, ${columns}]`);
      }
    }
  }
});
