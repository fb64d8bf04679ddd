// Goal: every WebAssembly operation of nearness, overlap, consensus and scores gives the bits of the scalar oracle.
// Method: both on the same images and lengths, with NaN, infinities, signed zeros, subnormals and equal values among
// them, and a known answer by hand for each.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createScalarKernels, type Kernels, type Tile } from "../../core/ops/kernels.ts";
import { fillImage, LENGTHS, onBoth, tileBytes } from "./oracle.ts";

const LENGTH_MAX = 1000;
const IMAGES = ["any", "finite", "close"] as const;
type Image = (typeof IMAGES)[number];

function bytesOf({ values }: Tile): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** A base and three models; `close`: mostly equal to the base, else a little off. */
function inputsOf(kernels: Kernels, image: Image): { base: Tile; models: readonly Tile[] } {
  const base = kernels.allocateTile(LENGTH_MAX);
  fillImage(bytesOf(base), 20, image !== "any");
  const models = [31, 32, 33].map((seed) => {
    const tile = kernels.allocateTile(LENGTH_MAX);
    if (image !== "close") fillImage(bytesOf(tile), seed, image === "finite");
    else tile.values.set(base.values.map((value, i) => ((i * seed) % 5 < 2 ? value : value * (1 + 1 / seed))));
    return tile;
  });
  return { base, models };
}

function eachInput(use: (kernels: Kernels, base: Tile, models: readonly Tile[], count: number) => readonly Tile[]) {
  for (const image of IMAGES) {
    for (const count of LENGTHS) {
      onBoth((kernels) => {
        const { base, models } = inputsOf(kernels, image);
        const tiles = use(kernels, base, models, count);
        return { bytes: Buffer.concat(tiles.map(({ values }) => tileBytes(values, count))) };
      });
    }
  }
}

function tileOf(kernels: Kernels, ...values: readonly number[]): Tile {
  const tile = kernels.allocateTile(Math.max(1, values.length));
  tile.values.set(values);
  return tile;
}

function marksOf(kernels: Kernels) {
  const bits = kernels.allocateBlock(LENGTH_MAX / 8 + 64);
  fillImage(bits.bytes, 77, false);
  return { bits, bitOffset: 16 };
}

describe("wasm operations on elements give the bits of the scalar oracle", () => {
  test("swapNear", () =>
    eachInput((kernels, base, models, count) =>
      models.map((model, index) => {
        const target = kernels.allocateTile(LENGTH_MAX);
        kernels.swapNear(target, model, base, [0.002, 0.3, -1][index] ?? 0, count);
        return target;
      }),
    ));

  test("countLarge, tallyLarge, addLarge and finishLarge", () => {
    for (const image of IMAGES) {
      for (const count of LENGTHS) {
        onBoth((kernels) => {
          const { base, models } = inputsOf(kernels, image);
          const [counts, target] = [kernels.allocateTile(LENGTH_MAX), kernels.allocateTile(LENGTH_MAX)];
          counts.values.fill(1);
          kernels.fill(target, 0, count);
          models.forEach((model, index) => {
            kernels.countLarge(counts, model, base, 0.01, index === 0, count);
          });
          const result = models.map((model) => kernels.tallyLarge(counts, model, base, 0.01, count));
          for (const model of models) kernels.addLarge(target, counts, model, base, 0.01, 1.3, count);
          kernels.finishLarge(target, counts, base, count);
          return { bytes: Buffer.concat([bytesOf(counts), tileBytes(target.values, count)]), result };
        });
      }
    }
  });

  test("addMoments and writeVariance", () =>
    eachInput((kernels, base, models, count) => {
      const moments = { means: kernels.allocateBlock(8 * LENGTH_MAX), squares: kernels.allocateBlock(8 * LENGTH_MAX) };
      moments.means.bytes.fill(0x41);
      models.forEach((model, index) => {
        kernels.addMoments(moments, model, base, index + 1, count);
      });
      const target = kernels.allocateTile(LENGTH_MAX);
      kernels.writeVariance(target, moments, models.length, count);
      return [target];
    }));

  test("addMarked, addElected and finishElected", () =>
    eachInput((kernels, base, models, count) => {
      const marks = marksOf(kernels);
      const [majority, sum, weights, target] = [0, 1, 2, 3].map(() => kernels.allocateTile(LENGTH_MAX));
      assert.ok(majority && sum && weights && target);
      for (const tile of [majority, sum, weights]) kernels.fill(tile, 0, count);
      for (const model of models) kernels.addMarked(majority, model, base, marks, count);
      models.forEach((model, index) => {
        kernels.addElected({ majority, sum, weights }, model, base, marks, 0.2 + 0.3 * index, count);
      });
      kernels.finishElected(target, { majority, sum, weights }, base, count);
      return [majority, sum, weights, target];
    }));

  test("writeScores of rows of any length from any element, and addScored", () => {
    for (const [length, first] of [
      [1, 5],
      [3, 7],
      [64, 100],
      [1000, 0],
      [700, 2 ** 33 + 5],
    ] as const) {
      eachInput((kernels, base, [model = base], count) => {
        const skipped = Math.floor(first / length);
        const rows = { factors: kernels.allocateBlock(4 * 1100), length };
        fillImage(rows.factors.bytes, 12, true);
        const [scores, target] = [kernels.allocateTile(LENGTH_MAX), kernels.allocateTile(LENGTH_MAX)];
        kernels.writeScores(scores, model, base, rows, skipped > 50 ? first % length : first, count);
        kernels.addScored(target, model, base, scores, scores.values[0] ?? 0, count);
        return [scores, target];
      });
    }
  });
});

describe("operations on elements, by hand", () => {
  const kernels = createScalarKernels(2 ** 16);
  const target = kernels.allocateTile(4);

  test("swapNear takes the model where it is near, the base where it is far", () => {
    const base = tileOf(kernels, 1, 1, 1, Number.NaN);
    kernels.swapNear(target, tileOf(kernels, 1, 1.5, 3, 1), base, 0.5, 4);
    assert.deepEqual([...target.values], [1, 1.5, 1.5, Number.NaN]);
  });

  test("a lone change is taken by its factor, shared ones are averaged, small ones are not counted", () => {
    const [base, a, b] = [tileOf(kernels, 1, 1, 1, 1), tileOf(kernels, 3, 2, 1.25, 1), tileOf(kernels, 1, 4, 1, 1)];
    const counts = kernels.allocateTile(4);
    kernels.countLarge(counts, a, base, 0.5, true, 4);
    kernels.countLarge(counts, b, base, 0.5, false, 4);
    assert.deepEqual(kernels.tallyLarge(counts, a, base, 0.5, 4), { unique: 1, overlapping: 1 });
    kernels.fill(target, 0, 4);
    kernels.addLarge(target, counts, a, base, 0.5, 1.5, 4);
    kernels.addLarge(target, counts, b, base, 0.5, 7, 4);
    kernels.finishLarge(target, counts, base, 4);
    assert.deepEqual([...target.values], [4, 3, 1, 1]);
  });

  test("the variance of differences, and a sum of those that agree in sign", () => {
    const [base, a, b] = [tileOf(kernels, 1, 1, 1, 1), tileOf(kernels, 4, 3, 0, 1), tileOf(kernels, 2, 0, 2, 1)];
    const moments = { means: kernels.allocateBlock(32), squares: kernels.allocateBlock(32) };
    kernels.addMoments(moments, a, base, 1, 4);
    kernels.addMoments(moments, b, base, 2, 4);
    kernels.writeVariance(target, moments, 2, 4);
    assert.deepEqual([...target.values], [1, 2.25, 1, 0]);
    const [majority, sum, weights] = [
      tileOf(kernels, 0, 0, 0, 0),
      tileOf(kernels, 0, 0, 0, 0),
      tileOf(kernels, 0, 0, 0, 0),
    ];
    const marks = { bits: kernels.allocateBlock(2), bitOffset: 0 };
    marks.bits.bytes.set([0b1111, 0]);
    for (const model of [a, b]) kernels.addMarked(majority, model, base, marks, 4);
    assert.deepEqual([...majority.values], [4, 1, 0, 0]);
    kernels.addElected({ majority, sum, weights }, a, base, marks, 0.25, 4);
    kernels.addElected({ majority, sum, weights }, b, base, marks, 0.75, 4);
    kernels.finishElected(target, { majority, sum, weights }, base, 4);
    assert.deepEqual([...target.values], [2.5, 3, 2, 1]);
  });

  test("scores are distances times their row's factor; those from the threshold on are taken", () => {
    const [base, a] = [tileOf(kernels, 1, 1, 1, 1), tileOf(kernels, 3, 0, 1.5, 1)];
    const rows = { factors: kernels.allocateBlock(12), length: 2 };
    new Float32Array(rows.factors.bytes.buffer, rows.factors.address, 3).set([100, 1, 4]);
    kernels.writeScores(target, a, base, rows, 2, 4);
    assert.deepEqual([...target.values], [2, 1, 2, 0]);
    const result = kernels.allocateTile(4);
    kernels.addScored(result, a, base, target, 2, 4);
    assert.deepEqual([...result.values], [3, 1, 1.5, 1]);
  });
});
