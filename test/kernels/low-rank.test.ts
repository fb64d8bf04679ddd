// Goal: the WebAssembly form of addLowRank gives the bits of the scalar oracle, and the oracle those of the formula.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createScalarKernels, type Tile } from "../../core/ops/kernels.ts";
import { fillImage, LENGTHS, onBoth, tileBytes } from "./oracle.ts";

const LENGTH_MAX = 1000;

function fill({ values }: Tile, seed: number, finite: boolean): void {
  fillImage(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), seed, finite);
}

test("addLowRank gives the same bits, for any rank, stride and offset", () => {
  for (const count of LENGTHS) {
    for (const [rank, leftStride] of [
      [1, 1],
      [3, 7],
      [16, 1],
    ] as const) {
      for (const finite of [true, false]) {
        onBoth((kernels) => {
          const [target, left] = [kernels.allocateTile(LENGTH_MAX), kernels.allocateTile(rank * leftStride + 5)];
          const right = kernels.allocateTile(rank * (LENGTH_MAX + 3) + 2);
          fill(target, 3 + count, finite);
          fill(left, 5, finite);
          fill(right, 9, finite);
          const terms = { left, leftOffset: 5, leftStride, right, rightOffset: 2, rightStride: LENGTH_MAX + 3 };
          kernels.addLowRank(target, { ...terms, rank, scale: 0.3 }, count);
          return { bytes: tileBytes(target.values, LENGTH_MAX) };
        });
      }
    }
  }
});

test("addLowRank adds scale times the sum of the terms, each step rounded to float32", () => {
  const kernels = createScalarKernels(4096);
  const [target, left, right] = [kernels.allocateTile(2), kernels.allocateTile(3), kernels.allocateTile(4)];
  target.values.set([1, 0.1]);
  left.values.set([9, 0.1, 0.2]);
  right.values.set([0.3, 0.5, 0.7, 0.9]);
  const { fround } = Math;
  const terms = { left, leftOffset: 1, leftStride: 1, right, rightOffset: 0, rightStride: 2, rank: 2, scale: 2 };
  kernels.addLowRank(target, terms, 2);
  const sum = (a: number, b: number) => fround(fround(fround(0.1) * fround(a)) + fround(fround(0.2) * fround(b)));
  assert.deepEqual(
    [...target.values],
    [fround(1 + fround(sum(0.3, 0.7) * 2)), fround(fround(0.1) + fround(sum(0.5, 0.9) * 2))],
  );
});
