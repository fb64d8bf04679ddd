// Goal: the WebAssembly form of addMatrixProduct gives the bits of the scalar oracle. Method: parts of larger matrices,
// of shapes around the vector width, the rows that are read together, and the parts that are cut for the cache.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Kernels } from "../../core/ops/kernels.ts";
import { inMemory } from "../../core/ops/linalg/matrix.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { plainNumbers } from "../random-numbers.ts";
import { onBoth } from "./oracle.ts";

/** Values of a fixed sequence; `wild` mixes in zeros, infinities and what is smallest and largest. */
function doubles(kernels: Kernels, count: number, seed: number, wild: boolean): Float64Array {
  const values = inMemory(kernels)(count);
  const edges = [0, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 5e-324, Number.MAX_VALUE];
  values.set(plainNumbers(count, seed).map((value, i) => (wild && i % 7 === 0 ? (edges[(i / 7) % 6] ?? 0) : value)));
  return values;
}

test("addMatrixProduct gives the same bits, for any shape, stride and sign", () => {
  for (const rows of [0, 1, 2, 3, 5]) {
    for (const inner of [0, 1, 3, 4, 6, 64, 67]) {
      for (const columns of [0, 1, 2, 5, 256, 259]) {
        for (const [sign, wild] of [
          [1, false],
          [-1, false],
          [-1, true],
        ] as const) {
          onBoth((kernels) => {
            const target = doubles(kernels, (rows + 1) * (columns + 3), 1, wild);
            const a = { values: doubles(kernels, (rows + 1) * (inner + 1), 2, wild), stride: inner + 1 };
            const b = { values: doubles(kernels, (inner + 1) * (columns + 2), 3, wild), stride: columns + 2 };
            const shape = { rows, inner, columns, sign };
            kernels.addMatrixProduct({ values: target.subarray(1), stride: columns + 3 }, a, b, shape);
            const seen = target.map((value) => (Number.isNaN(value) ? Number.NaN : value));
            return { bytes: new Uint8Array(seen.buffer) };
          });
        }
      }
    }
  }
});

test("a matrix that lies elsewhere is a fault of ours", () => {
  const part = { values: new Float64Array(4), stride: 2 };
  const shape = { rows: 2, inner: 2, columns: 2, sign: 1 } as const;
  assert.throws(() => createWasmKernels(4096).addMatrixProduct(part, part, part, shape), { code: "ERR_ASSERTION" });
});
