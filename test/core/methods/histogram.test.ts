// Histograms of more keys than 32 bits count, which no test can run in full: the kernel is one that counts at once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { COARSE_BINS, createHistogram, findBin, fineBins } from "../../../core/methods/sparsify/histogram.ts";
import { type Deltas, wordsOf } from "../../../core/ops/deltas.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import type { Select } from "../../../core/ops/select.ts";

const kernels = createScalarKernels(2 ** 20);

/** Differences to 0 with these bits. */
function deltasOf(...keys: number[]): Deltas {
  const [base, source] = [kernels.allocateBlock(4 * keys.length), kernels.allocateBlock(4 * keys.length)];
  base.bytes.fill(0);
  wordsOf(source).set(keys);
  return { dtype: "F32", base, source, byteOffset: 0 };
}

test("bins hold the upper bits of keys, and then the lower ones of those in one bin", () => {
  const keys = [0, 0x3f80_0000, 0x3f80_0001, 0x3f80_ffff, 0x3f81_0000];
  const coarse = createHistogram(kernels, kernels.allocateBlock(4 * COARSE_BINS.length), COARSE_BINS);
  coarse.add(deltasOf(...keys), keys.length);
  assert.deepEqual(findBin(coarse.counts(), 2), { bin: 0x3f80, above: 1, count: 3 });
  const bins = fineBins(0x3f80);
  const fine = createHistogram(kernels, kernels.allocateBlock(4 * bins.length), bins);
  fine.add(deltasOf(...keys), keys.length);
  assert.deepEqual(findBin(fine.counts(), 2), { bin: 1, above: 1, count: 1 });
});

test("more keys in one bin than a word counts", () => {
  const countKeys: Select["countKeys"] = (_deltas, _origin, _shift, bins, _binCount, count) => {
    const words = wordsOf(bins);
    words[7] = (words[7] ?? 0) + count - 1;
    words[3] = (words[3] ?? 0) + 1;
  };
  const histogram = createHistogram({ countKeys }, kernels.allocateBlock(4 * COARSE_BINS.length), COARSE_BINS);
  const [tile, tiles] = [2 ** 31, 5];
  for (let i = 0; i < tiles; i++) histogram.add(deltasOf(0), tile);
  assert.deepEqual(findBin(histogram.counts(), 1), { bin: 7, above: 0, count: tiles * (tile - 1) });
  assert.deepEqual(findBin(histogram.counts(), tiles * tile), { bin: 3, above: tiles * (tile - 1), count: tiles });
});
