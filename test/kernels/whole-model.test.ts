// Goal: every WebAssembly operation of votes and competition gives the bits of the scalar oracle, and the oracle is
// what it says. Method: both on the same images and lengths; exponential and tanh against Math's, by their error.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { scalarCompetition } from "../../core/ops/competition.ts";
import { createScalarKernels, type Kernels, type Tile } from "../../core/ops/kernels.ts";
import { scalarVotes } from "../../core/ops/votes.ts";
import { fillImage, LENGTHS, onBoth, tileBytes } from "./oracle.ts";

const LENGTH_MAX = 1000;
const ORDINARY = "ordinary";
const IMAGES = ["any", "finite", ORDINARY] as const;

/** Four tiles that are read and two that are written; `ordinary`: weights and small differences, some of them 0. */
type Tiles = { readonly base: Tile; readonly a: Tile; readonly b: Tile; readonly c: Tile; x: Tile; y: Tile };

function tilesOf(kernels: Kernels, image: (typeof IMAGES)[number]): Tiles {
  const [base, a, b, c, x, y] = [1, 2, 3, 4, 5, 6].map((seed) => {
    const tile = kernels.allocateTile(LENGTH_MAX);
    const bytes = new Uint8Array(tile.values.buffer, tile.values.byteOffset, tile.values.byteLength);
    fillImage(bytes, 30 + seed, image !== "any");
    if (image === ORDINARY) {
      for (let i = 0; i < LENGTH_MAX; i++) tile.values[i] = ((i * (seed + 4)) % 23) - 11 + (seed === 3 ? 0.25 : 0);
    }
    return tile;
  });
  assert.ok(base && a && b && c && x && y);
  return { base, a, b, c, x, y };
}

type Use = (kernels: Kernels, tiles: Tiles, count: number) => unknown;

function eachImage(use: Use): void {
  for (const image of IMAGES) {
    for (const count of LENGTHS) {
      onBoth((kernels) => {
        const tiles = tilesOf(kernels, image);
        const result = use(kernels, tiles, count);
        return { bytes: Buffer.concat([tileBytes(tiles.x.values, count), tileBytes(tiles.y.values, count)]), result };
      });
    }
  }
}

const CASES: Readonly<Record<string, Use>> = {
  trim: (kernels, { a, base, x }, count) => kernels.trim(x, a, base, 3.3, count),
  "keepSign, an open sign taken as +, - or neither": (kernels, { a, x, y }, count) => {
    kernels.keepSign(x, a, 1, count);
    kernels.keepSign(y, a, -1, count);
    kernels.keepSign(y, x, 0, count);
  },
  addCounted: (kernels, { a, b, x, y }, count) => {
    kernels.addCounted(x, y, a, count);
    kernels.addCounted(x, y, b, count);
  },
  keepLargest: (kernels, { a, b, x }, count) => {
    kernels.keepLargest(x, a, count);
    kernels.keepLargest(x, b, count);
  },
  addSquares: (kernels, { a, x }, count) => kernels.addSquares(x, a, 1.7, count),
  keepLargestSquare: (kernels, { a, b, x, y }, count) => {
    kernels.fill(x, 0, count);
    kernels.keepLargestSquare(x, y, a, 1.7, count);
    kernels.keepLargestSquare(x, y, b, 0.3, count);
  },
  divideCounted: (kernels, { a, x }, count) => kernels.divideCounted(x, a, count),
  countLocal: (kernels, { a, b, base, x }, count) => kernels.countLocal(x, a, base, b, 0.4, count),
  keepCounted: (kernels, { a, x }, count) => kernels.keepCounted(x, a, 2, count),
  writePlaces: (kernels, { a, base, x, y }, count) => {
    kernels.writePlaces(x, a, base, { low: 0.1, high: 4.7 }, count);
    kernels.writePlaces(y, a, base, { low: 2, high: 2 }, count);
  },
  addTanh: (kernels, { a, b, x }, count) => kernels.addTanh(x, a, b, count),
  scaleExp: (kernels, { a, x, y }, count) => {
    kernels.scaleExp(x, a, 3, count);
    kernels.scaleExp(y, a, -0.01, count);
  },
  writePositive: (kernels, { a, x, y }, count) => {
    kernels.writePositive(x, a, 1, count);
    kernels.writePositive(y, a, -1, count);
  },
  addCompetitor: (kernels, { a, b, base, x, y }, count) => {
    const part = { model: a, base, scores: b, factor: 1.2 };
    kernels.addCompetitor(x, y, { ...part, magnitudes: { low: 1, high: 5 }, places: { low: 0.5, high: 9 } }, count);
    kernels.addCompetitor(x, y, { ...part, magnitudes: { low: 0, high: 0 }, places: { low: 3, high: 3 } }, count);
  },
  finishCompetition: (kernels, { a, base, x }, count) => kernels.finishCompetition(x, x, a, base, count),
};

describe("wasm operations on whole models give the bits of the scalar oracle", () => {
  for (const [name, use] of Object.entries(CASES)) test(name, () => eachImage(use));
  test("balanceSigns, sumAbsolute and findLargest", () =>
    eachImage((kernels, { a }, count) => [
      kernels.balanceSigns(a, count),
      kernels.sumAbsolute(a, count),
      kernels.findLargest(a, count),
    ]));
});

function tile(...values: readonly number[]): Tile {
  return { address: 0, values: Float32Array.from(values) };
}

describe("the oracle of votes and competition", () => {
  test("an element agrees with the elected sign, or with that of zero, or with none", () => {
    const signs = tile(1, -1, 0, 0, 0);
    const results = [1, -1, 0].map((zeroSign) => {
      const values = tile(2, 2, 2, -2, 0);
      scalarVotes.keepSign(values, signs, zeroSign, 5);
      return [...values.values].map((value) => value + 0);
    });
    assert.deepEqual(results, [
      [2, 0, 2, 0, 0],
      [2, 0, 0, -2, 0],
      [2, 0, 0, 0, 0],
    ]);
  });

  test("a mask holds where the model is farther from the base than a share of what it is from the sum", () => {
    const counts = tile(0, 0);
    scalarVotes.countLocal(counts, tile(3, 1.5), tile(1, 1), tile(2.5, 2.5), 0.6, 2);
    assert.deepEqual([...counts.values], [1, 0]);
  });

  test("exponential and tanh are right within a few units in the last place", () => {
    const kernels = createScalarKernels(2 ** 20);
    const [x, one, target] = [0, 1, 2].map(() => kernels.allocateTile(20_001));
    assert.ok(x && one && target);
    one.values.fill(1);
    const worst = { exp: 0, tanh: 0 };
    for (const scale of [1e-6, 1e-3, 0.1, 1, 5]) {
      x.values.forEach((_, i, all) => {
        all[i] = (scale * (i - 10_000)) / 10_000;
      });
      target.values.fill(0);
      scalarCompetition.addTanh(target, x, one, 20_001);
      for (let i = 0; i < 20_001; i++) worst.tanh = Math.max(worst.tanh, miss(target, i, Math.tanh(x.values[i] ?? 0)));
      target.values.fill(1);
      scalarCompetition.scaleExp(target, x, 3, 20_001);
      for (let i = 0; i < 20_001; i++) {
        const power = Math.fround(3 * Math.fround((x.values[i] ?? 0) ** 2));
        worst.exp = Math.max(worst.exp, miss(target, i, Math.exp(power)));
      }
    }
    assert.ok(worst.exp < 2 && worst.tanh < 3, JSON.stringify(worst));
  });
});

/** Units in the last place between an element and its true value. */
function miss({ values }: Tile, index: number, exact: number): number {
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(exact) || 1e-30)) - 23);
  return Math.abs((values[index] ?? 0) - exact) / unit;
}
