// Goal: marks kept between passes are those that would be made again. Method: the same marking through both kinds of
// store, tiles of odd lengths, two passes.
import assert from "node:assert/strict";
import test from "node:test";
import { createMaskStore, maskStoreBytes } from "../../../core/methods/sparsify/mask-store.ts";
import type { DeltaTile, MarkTile } from "../../../core/methods/sparsify/sparsifier.ts";
import { bitAt, setBit } from "../../../core/ops/deltas.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";

const [ROWS, COLUMNS] = [700, 333];

/** Two passes over a tensor by slices; what the marks were, and how often they were made. */
function collect(keeps: boolean, columns = COLUMNS) {
  const tensor = {
    shape: [ROWS, columns],
    parameters: {},
    inputs: [0, 1].map(() => ({ isBase: false, parameters: {} })),
  };
  const kernels = createScalarKernels(maskStoreBytes(tensor, "slice", keeps));
  let made = 0;
  const mark: MarkTile = (source, { firstElement, count }, bits, bitOffset) => {
    if (firstElement === 0 && source === 1) made++;
    for (let i = 0; i < count; i++) setBit(bits, bitOffset + i, (firstElement + i) % (source + 2) === 0);
  };
  const store = createMaskStore(kernels, tensor, "slice", keeps, mark);
  const marks: string[] = [];
  const step = columns * Math.max(1, Math.floor(8192 / columns));
  for (let pass = 0; pass < 2; pass++) {
    for (let firstElement = 0; firstElement < ROWS * columns; firstElement += step) {
      const count = Math.min(step, ROWS * columns - firstElement);
      const tile: DeltaTile = {
        firstElement,
        count,
        tileElements: step,
        deltas: () => assert.fail("marking here reads nothing"),
      };
      store.enter(tile);
      for (const source of [0, 1, undefined, 0]) {
        const { bits, bitOffset } = store.marksOf(source);
        marks.push(Array.from({ length: Math.min(count, 500) }, (_, i) => Number(bitAt(bits, bitOffset + i))).join(""));
      }
    }
  }
  return { marks, made };
}

test("marks that are kept equal marks that are made in every pass, and are made once", () => {
  const [kept, again] = [collect(true), collect(false)];
  assert.deepEqual(kept.marks, again.marks);
  assert.equal(kept.made, 1);
  assert.equal(again.made, 2);
  assert.ok(kept.marks.some((line) => line.startsWith("101010")));
  assert.ok(kept.marks.some((line) => !line.includes("0")));
});

test("marks of a tensor that would take too much memory are made in every pass", () => {
  const tensor = { shape: [2 ** 14, 2 ** 14], parameters: {}, inputs: [{ isBase: false, parameters: {} }] };
  assert.ok(maskStoreBytes(tensor, "element", true) > 2 ** 25);
  const larger = { ...tensor, shape: [2 ** 14, 2 ** 15] };
  assert.equal(maskStoreBytes(larger, "element", true), maskStoreBytes(larger, "element", false));
});
