// Goal: the WebAssembly quantizers, dequantizers, limits and the measure of loss give the bits of the oracle. Method:
// rows of many kinds, some of them all edges, of one block, of a few, and of more than any lane holds, at unaligned
// places.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createScalarKernels, type Kernels } from "../../core/ops/kernels.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, type BlockSchemeId } from "../../core/schemes/registry.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { fillImage, tileBytes } from "./oracle.ts";

/** Uniform numbers in [0, 1) (xorshift). */
function createUniform(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Rows by what they are like: element i from uniform numbers. */
const ROWS: Readonly<Record<string, (u: () => number, i: number) => number>> = {
  normal: (u) => 0.04 * (u() + u() + u() + u() - 2),
  "all magnitudes": (u) => (u() - 0.5) * 10 ** (20 * u() - 15),
  sparse: (u) => (u() < 0.9 ? 0 : u() - 0.5),
  "signed zeros": (u) => (u() < 0.5 ? -0 : u() < 0.5 ? 0 : 0.5),
  zeros: () => 0,
  "few levels, all ties": (u) => (Math.floor(5 * u()) - 2) * 0.25,
  "ties of 4-bit floats": (u, i) => (i % 16 === 3 ? 6 : 0.25 * Math.floor(49 * u() - 24)),
  "just below a power of two": (u, i) => (i % 16 === 3 ? 2 - 2 ** -23 : u()),
  positive: (u) => u(),
  "far from zero": (u) => -1 - 1e-3 * u(),
  "constant blocks": (_, i) => (i >> 5) * 0.37 - 5,
  subnormal: (u) => (u() - 0.5) * 1e-38,
  "near the least scale": (u) => (u() - 0.5) * 1e-30,
  "scales beyond F16": (u) => (u() - 0.5) * 1e7,
  huge: (u) => (u() - 0.5) * 3e38,
  outliers: (u, i) => (i % 97 === 5 ? 50 : 0.01) * (u() - 0.5),
};

type Row = { readonly values: Float32Array; readonly importance: Float32Array };

function rowsOf(columns: number): ReadonlyMap<string, Row> {
  const u = createUniform(columns + 7);
  const rows = Object.entries(ROWS).map(([name, value]): [string, Row] => {
    const values = Float32Array.from({ length: columns }, (_, i) => value(u, i));
    // Some columns have no weight at all.
    return [name, { values, importance: Float32Array.from(values, (_, i) => (i % 11 === 0 ? 0 : u())) }];
  });
  const edges = new Float32Array(columns);
  fillImage(new Uint8Array(edges.buffer), 31, true);
  return new Map([...rows, ["edges", { values: edges, importance: edges.map(Math.abs) }]]);
}

const both = [createScalarKernels(2 ** 20), createWasmKernels(2 ** 20)] as const;

/** Blocks, their values and the loss; around the blocks are bytes that must stay. */
function quantize(kernels: Kernels, id: BlockSchemeId, { values, importance }: Row, isWeighted: boolean) {
  const mark = kernels.mark();
  const columns = values.length;
  const [source, weights] = [kernels.allocateTile(columns + 1), kernels.allocateTile(columns)];
  const [target, back] = [kernels.allocateBlock(4 * columns + 8), kernels.allocateTile(columns)];
  source.values.set(values, 1);
  weights.values.set(importance);
  target.bytes.fill(0xa5);
  kernels.quantizeRow(id, source, 1, columns, target, 2, isWeighted ? weights : undefined);
  kernels.dequantizeRow(id, target, 2, back, columns);
  const { limits } = BLOCK_SCHEMES[id];
  const width = limits?.width ?? columns;
  const runs = { low: kernels.allocateTile(columns / width), high: kernels.allocateTile(columns / width), width };
  if (limits !== undefined) kernels.limitRow(id, target, 2, columns, runs);
  const loss = kernels.measureLoss(source, 1, back, columns, limits && runs);
  const [low, high] = [runs.low, runs.high].map((tile) => Buffer.from(tileBytes(tile.values, columns / width)));
  const blocks = Buffer.from(target.bytes);
  const found = { blocks, values: Buffer.from(tileBytes(back.values, columns)), low, high, loss };
  kernels.release(mark);
  return found;
}

for (const isWeighted of [false, true]) {
  const kind = isWeighted ? "with an importance matrix" : "alone";
  test(`every scheme gives the oracle's bytes, values, limits and loss, ${kind}`, () => {
    for (const id of BLOCK_SCHEME_IDS) {
      const { blockElements } = BLOCK_SCHEMES[id];
      for (const columns of new Set([blockElements, 3 * blockElements, 7 * blockElements, 9 * 256])) {
        if (columns % blockElements !== 0) continue;
        for (const [name, row] of rowsOf(columns)) {
          const [scalar, wasm] = both.map((kernels) => quantize(kernels, id, row, isWeighted));
          assert.deepEqual(wasm, scalar, `${id}, ${columns} columns, ${name}`);
        }
      }
    }
  });
}

test("loss is measured in float64, in four partial sums, for any number of values", () => {
  for (const count of [0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 1000]) {
    const [scalar, wasm] = both.map((kernels) => {
      const mark = kernels.mark();
      const [values, back] = [kernels.allocateTile(count + 3), kernels.allocateTile(count)];
      values.values.set(Float32Array.from({ length: count + 3 }, (_, i) => Math.sin(i) * 10 ** (i % 37)));
      back.values.set(Float32Array.from({ length: count }, (_, i) => Math.cos(i)));
      const loss = kernels.measureLoss(values, 3, back, count);
      kernels.release(mark);
      return loss;
    });
    assert.deepEqual(wasm, scalar);
  }
  const [kernels] = both;
  const [values, back] = [kernels.allocateTile(2), kernels.allocateTile(2)];
  values.values.set([3, -4]);
  back.values.set([3.5, -3]);
  const expected = { elements: 2, signal: 25, noise: 1.25, largest: 1, clipped: 0 };
  assert.deepEqual(kernels.measureLoss(values, 0, back, 2), expected);
});

test("values beyond the limits of their run are counted, whatever its width", () => {
  for (const [width, runs] of [
    [1, 9],
    [3, 5],
    [16, 7],
    [32, 3],
    [70, 2],
  ] as const) {
    const [scalar, wasm] = both.map((kernels) => {
      const mark = kernels.mark();
      const values = kernels.allocateTile(width * runs + 1);
      const [low, high] = [kernels.allocateTile(runs), kernels.allocateTile(runs)];
      values.values.set(values.values.map((_, i) => Math.sin(i)));
      low.values.set(low.values.map((_, i) => -0.1 * i));
      high.values.set(high.values.map((_, i) => 0.2 * i));
      const loss = kernels.measureLoss(values, 1, values, width * runs, { low, high, width });
      kernels.release(mark);
      return loss;
    });
    assert.deepEqual(wasm, scalar);
    assert.ok((scalar?.clipped ?? 0) > 0);
  }
  const [kernels] = both;
  const [values, low, high] = [kernels.allocateTile(4), kernels.allocateTile(2), kernels.allocateTile(2)];
  values.values.set([-2, 1, 1, 2]);
  low.values.set([-1, 0]);
  high.values.set([1, 1.5]);
  assert.equal(kernels.measureLoss(values, 0, values, 4, { low, high, width: 2 }).clipped, 2);
});
