// Goal: the WebAssembly products of integers give what the scalar oracle gives, sums beyond int32 included. Method:
// matrices of shapes around the rows and columns that are read together.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Block, Kernels } from "../../core/ops/kernels.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { plainNumbers } from "../random-numbers.ts";
import { onBoth } from "./oracle.ts";

function int16(kernels: Kernels, count: number, seed: number): Int16Array {
  const { bytes } = kernels.allocateBlock(2 * count);
  const values = new Int16Array(bytes.buffer, bytes.byteOffset, count);
  values.set(plainNumbers(count, seed).map((value) => Math.trunc(value * 65_535)));
  return values;
}

function int32({ bytes }: Block): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

test("integerProduct gives the same integers, for any shape", () => {
  for (const rows of [0, 1, 3, 4, 5, 33]) {
    for (const columns of [0, 1, 2, 3, 6]) {
      for (const depth of [0, 8, 16, 40]) {
        onBoth((kernels) => {
          const target = kernels.allocateBlock(4 * rows * columns);
          const [a, b] = [int16(kernels, rows * depth, 1), int16(kernels, columns * depth, 2)];
          kernels.integerProduct(int32(target), a, b, { rows, columns, depth });
          return target;
        });
      }
    }
  }
});

test("roundToIntegers rounds the same, ties to even", () => {
  for (const count of [0, 1, 7, 8, 9, 31]) {
    onBoth((kernels) => {
      const source = kernels.allocateTile(count).values;
      const ties = [0.5, 1.5, -0.5, -2.5, 32_000, -32_000, -0, 0.49999997];
      source.set(plainNumbers(count, 3).map((value, i) => (i % 2 === 0 ? (ties[(i / 2) % 8] ?? 0) / 2 : value * 900)));
      const target = int16(kernels, count, 4);
      kernels.roundToIntegers(target, source, 2);
      return { bytes: new Uint8Array(target.buffer, target.byteOffset, 2 * count) };
    });
  }
});

test("a matrix that lies elsewhere is a fault of ours", () => {
  const own = new Int16Array(8);
  const shape = { rows: 1, columns: 1, depth: 8 };
  const kernels = createWasmKernels(4096);
  assert.throws(() => kernels.integerProduct(new Int32Array(1), own, own, shape), { code: "ERR_ASSERTION" });
});
