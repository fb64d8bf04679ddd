// Goal: every WebAssembly operation on task vectors gives the bits of the scalar oracle. Method: both on the same
// images, dtypes and lengths, with NaN, infinities, signed zeros, subnormals and many equal values among them.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { COMBINE_DTYPES, type CombineDtype } from "../../core/ops/combine.ts";
import { type Deltas, wordsOf } from "../../core/ops/deltas.ts";
import type { Kernels } from "../../core/ops/kernels.ts";
import type { Block } from "../../core/ops/memory.ts";
import { rankedScratchBytes, writeThresholds } from "../../core/ops/ranked-mask.ts";
import { KEY_MAX, keysOf } from "../../core/ops/select.ts";
import { streamKey, uniformAt } from "../../core/random.ts";
import { elementBytes } from "../../core/tensor.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { fillImage, LENGTHS, onBoth, tileBytes } from "./oracle.ts";

const LENGTH_MAX = 1000;
const IMAGES = ["any", "finite", "close"] as const;
type Image = (typeof IMAGES)[number];

/** A base and a source; `close`: they differ by a few small steps, so that many magnitudes are equal. */
function deltasOf(kernels: Kernels, dtype: CombineDtype, image: Image, skip = 3): Deltas {
  const [base, source] = [kernels.allocateBlock(4 * (LENGTH_MAX + 64)), kernels.allocateBlock(4 * (LENGTH_MAX + 64))];
  fillImage(base.bytes, 20, image !== "any");
  if (image === "close") {
    base.bytes.forEach((byte, i) => {
      source.bytes[i] = i % 4 === 0 ? byte ^ (i % 5) : byte;
    });
  } else fillImage(source.bytes, 21, image === "finite");
  return { dtype, base, source, byteOffset: skip * (dtype === "F32" ? 4 : 2) };
}

/** Runs `use` for every dtype, image and length. */
function eachDeltas(use: (kernels: Kernels, deltas: Deltas, count: number) => { bytes: Uint8Array; result?: unknown }) {
  for (const dtype of COMBINE_DTYPES) {
    for (const image of IMAGES) {
      for (const count of LENGTHS) onBoth((kernels) => use(kernels, deltasOf(kernels, dtype, image), count));
    }
  }
}

function filled(kernels: Kernels, bytes: number): Block {
  const block = kernels.allocateBlock(bytes);
  block.bytes.fill(0xa5);
  return block;
}

/** Keys of the first `count` elements, sorted, to choose brackets among them. */
function sortedKeys(kernels: Kernels, deltas: Deltas, count: number): Uint32Array {
  const block = kernels.allocateBlock(4 * LENGTH_MAX);
  kernels.writeKeys(deltas, block, 0, count);
  return wordsOf(block).slice(0, count).sort();
}

describe("wasm operations on task vectors give the bits of the scalar oracle", () => {
  test("writeKeys: magnitudes as integers, every NaN the largest", () => {
    eachDeltas((kernels, deltas, count) => {
      const target = filled(kernels, 4 * (LENGTH_MAX + 8));
      kernels.writeKeys(deltas, target, 5, count);
      assert.ok(wordsOf(target).every((word, i) => i < 5 || i >= 5 + count || word <= KEY_MAX));
      return { bytes: target.bytes };
    });
  });

  test("countBracket counts against both ends and lists what lies inside, in order", () => {
    eachDeltas((kernels, deltas, count) => {
      const sequence = [...keysOf(deltas, count)];
      const keys = sortedKeys(kernels, deltas, count);
      const pick = (share: number) => keys[Math.floor(share * (count - 1))] ?? 0;
      const [list, tally] = [filled(kernels, 4 * (LENGTH_MAX + 7)), filled(kernels, 12 * 11)];
      const brackets = [
        { low: pick(0.3), high: pick(0.6) },
        { low: pick(0.5), high: pick(0.5) },
        { low: 0, high: pick(0.1) },
        { low: pick(0.9), high: 0x7fffffff },
        { low: pick(0.2), high: KEY_MAX },
      ];
      const result = brackets.map((bracket) => {
        const counts = kernels.countBracket(deltas, bracket, list, 7, tally, count, 96);
        assert.ok(counts !== undefined, "the list has room for all keys");
        const listed = [...wordsOf(list).slice(7, counts.listed)];
        assert.deepEqual(
          listed,
          sequence.filter((key) => key > bracket.low && key < bracket.high),
        );
        return { counts, listed, tally: [...tally.bytes] };
      });
      return { bytes: new Uint8Array(0), result };
    });
  });

  test("countBracket stops at a tile for whose keys the list has no room", () => {
    eachDeltas((kernels, deltas, count) => {
      const tally = filled(kernels, 12 * 11);
      const bracket = { low: 0, high: KEY_MAX };
      const found = [count, count - 1].map((room) =>
        kernels.countBracket(deltas, bracket, filled(kernels, 4 * Math.max(0, room)), 0, tally, count, 1000),
      );
      assert.equal(found[0] !== undefined, true);
      assert.equal(found[1] !== undefined, count === 0);
      return { bytes: new Uint8Array(0), result: found };
    });
  });

  test("countKeys adds to bins of any origin and width", () => {
    eachDeltas((kernels, deltas, count) => {
      const bins = kernels.allocateBlock(4 * 65536);
      bins.bytes.fill(0);
      kernels.countKeys(deltas, 0, 16, bins, 32768, count);
      kernels.countKeys(deltas, 0x3e000000, 0, bins, 65536, count);
      kernels.countKeys(deltas, 0x3d000000, 9, bins, 5000, count);
      return { bytes: bins.bytes };
    });
  });

  test("countEqual and markKeys", () => {
    eachDeltas((kernels, deltas, count) => {
      const keys = sortedKeys(kernels, deltas, count);
      const [low, high] = [keys[Math.floor(count / 4)] ?? 0, keys[Math.floor(count / 2)] ?? 0];
      const bits = filled(kernels, LENGTH_MAX / 8 + 64);
      kernels.markKeys(deltas, { low, high }, bits, 32, count);
      const result = [low, high, 0, KEY_MAX, 12345].map((key) => kernels.countEqual(deltas, key, count));
      return { bytes: bits.bytes, result };
    });
  });

  test("addMagnitudes adds runs of 32 as trees, all and marked, tile by tile", () => {
    eachDeltas((kernels, deltas, count) => {
      const bits = kernels.allocateBlock(LENGTH_MAX / 8 + 64);
      fillImage(bits.bytes, 77, false);
      const sums = { all: 0.25, kept: 0.5 };
      kernels.addMagnitudes(sums, deltas, bits, 16, count, 96);
      return { bytes: new Uint8Array(0), result: sums };
    });
  });

  for (const sourceCount of [0, 1, 2, 3, 7]) {
    test(`combineMasked and combineBanded of ${sourceCount} sources, with and without election`, () => {
      eachDeltas((kernels, deltas, count) => combineCase(kernels, deltas, sourceCount, count));
    });
  }

  for (const dtype of COMBINE_DTYPES) {
    for (const odd of [[], [0], [1500], [1023, 1024, 2700]]) {
      test(`stored results of many chunks: ${dtype}, not finite at [${odd}]`, () => {
        for (const sourceCount of [1, 2, 3]) onBoth((kernels) => storedCase(kernels, dtype, sourceCount, odd));
      });
    }
  }

  test("combineBanded gives the bits of combineMasked under marks of the same keys", () => {
    const kernels = createWasmKernels(2 ** 20);
    const combination = { elects: true, normalizes: true, divisor: 1, multiplier: 1 };
    for (const dtype of COMBINE_DTYPES) {
      const mark = kernels.mark();
      const [first, second] = [deltasOf(kernels, dtype, "any"), deltasOf(kernels, dtype, "close")];
      const [target, other] = [kernels.allocateTile(LENGTH_MAX), kernels.allocateTile(LENGTH_MAX)];
      const deltas = [first, { ...second, base: first.base }];
      const band = { low: 0x3e800000, high: 0x42000000 };
      const sources = deltas.map((own, index) => {
        const bits = kernels.allocateBlock(LENGTH_MAX / 8 + 64);
        kernels.markKeys(own, band, bits, 0, 999);
        return { block: own.source, ...band, bits, bitOffset: 0, scale: 1, weight: 0.7 - index };
      });
      for (const elects of [true, false]) {
        const own = { ...combination, elects };
        kernels.combineMasked(dtype, first.base, sources, first.byteOffset, own, target, 999);
        kernels.combineBanded(dtype, first.base, sources, first.byteOffset, own, other, 999);
        assert.deepEqual(tileBytes(other.values, 999), tileBytes(target.values, 999));
      }
      kernels.release(mark);
    }
  });

  test("drawMask draws the numbers of core/random.ts, ties of the first byte included", () => {
    const key = streamKey(5, "tensor", "model");
    for (const count of LENGTHS) {
      for (const first of [0, 16, 8192, 2 ** 36 - 48]) {
        for (const probability of [0, 0.5, 0.3, uniformAt(key, first + 3), 1 - 2 ** -53]) {
          onBoth((kernels) => {
            const bits = filled(kernels, LENGTH_MAX / 8 + 64);
            kernels.drawMask(key, first, probability, bits, 16, count);
            return { bytes: bits.bytes };
          });
        }
      }
    }
  });

  // Lines whose keys are all alike, all different, share upper halves, or mix both: every branch of the sort.
  const lines = {
    equal: () => 0x3c000000,
    zeros: () => 0,
    steps: (i: number) => ((i * 7) % 19) << 16,
    "few mixed": (i: number) => (((i * 7) % 19) << 16) + (i % 13 === 0 ? (i * 977) & 0xffff : 0) + 0x3a000000,
    "one bin": (i: number) => 0x3c120000 + ((i * 40503) & 0xffff),
    wide: (i: number) => (Math.imul(i + 1, 0x9e3779b1) >>> 1) % KEY_MAX,
    tiny: (i: number) => (i * 3) % 5,
    fine: (i: number) => (i % 7 === 0 ? 0 : 0x3b000000 + ((Math.imul(i, 0x9e3779b1) >>> 8) % 0x1000000)),
    "fine, in few bins": (i: number) =>
      0x3b000001 + (Math.imul(i, 0x9e3779b1) >>> 22) + (i % 200 === 0 ? 0x4000000 : 0),
    "zeros and others": (i: number) => (i % 3 === 0 ? 0 : 0x3b000000 + ((i * 131) << 12)),
  };
  for (const [name, keyOf] of Object.entries(lines)) {
    test(`drawRankedMask draws by the ranks of lines with keys: ${name}`, () => {
      const shapes = [
        [3, 1, 1],
        [2, 2, 1],
        [3, 17, 1],
        [2, 33, 5],
        [1, 1000, 1],
        [2, 300, 3],
      ] as const;
      for (const [outer, length, inner] of shapes) {
        for (const first of [0, 7, 2 ** 36 - 5]) {
          for (const slope of [0.6, -0.15])
            onBoth((kernels) => rankedCase(kernels, keyOf, [outer, length, inner], first, slope));
        }
      }
    });
  }

  test("drawRankedMask of a line whose ranks take more than 16 bits", () => {
    const keyOf = (i: number): number => ((i * 7) % 1900) << 16;
    onBoth((kernels) => rankedCase(kernels, keyOf, [1, 66_000, 1], 0, 0.6), 2 ** 22);
  });
});

function rankedCase(
  kernels: Kernels,
  keyOf: (i: number) => number,
  [outer, length, inner]: readonly [number, number, number],
  first: number,
  slope: number,
) {
  const count = outer * length * inner;
  const keys = kernels.allocateBlock(4 * count);
  wordsOf(keys).forEach((_, i, all) => {
    all[i] = keyOf(i);
  });
  const thresholds = { highs: kernels.allocateBlock(length), lows: kernels.allocateBlock(4 * length) };
  writeThresholds(thresholds, length, (rank) => 0.2 + (slope * rank) / length);
  const bits = filled(kernels, Math.ceil(count / 8) + 64);
  const scratch = kernels.allocateBlock(rankedScratchBytes(length, count));
  scratch.bytes.fill(0);
  const key = streamKey(6, "tensor", "model");
  // Twice, because a call leaves the scratch as the next one needs it.
  for (const bit of [32, 16]) {
    kernels.drawRankedMask(key, first, thresholds, keys, { outer, length, inner }, bits, bit, scratch);
  }
  return { bytes: bits.bytes };
}

/** Weights of several chunks; at `odd` elements a source is NaN, the next one as large as can be. */
function storedCase(kernels: Kernels, dtype: CombineDtype, sourceCount: number, odd: readonly number[]) {
  const [count, skip] = [2701, 16];
  const tile = kernels.allocateTile(skip + count);
  const blocks = Array.from({ length: sourceCount + 1 }, (_, index) => {
    fillImage(new Uint8Array(tile.values.buffer, tile.address, 4 * (skip + count)), 41 + index, true);
    if (index === 1) for (const at of odd) tile.values.set([Number.NaN, 3.4e38].slice(0, count - at), skip + at);
    const block = kernels.allocateBlock(elementBytes(dtype, skip + count) + 64);
    kernels.narrow(dtype, tile, block, 0, skip + count);
    return block;
  });
  const [base, ...others] = blocks;
  assert.ok(base !== undefined);
  const bits = kernels.allocateBlock(count / 8 + 64);
  fillImage(bits.bytes, 44, false);
  const sources = others.map((block, index) => {
    const kept = { bits, bitOffset: 32 * index, scale: 1.5, low: 0x3d000000, high: KEY_MAX };
    return { block, ...kept, weight: index % 2 === 0 ? 0.7 : -0.4 };
  });
  const all = [false, true].flatMap((elects) => {
    const combination = {
      elects,
      normalizes: sourceCount < 3,
      divisor: sourceCount === 2 ? 1 : 1.5,
      multiplier: elects ? 1 : 0.5,
    };
    const ranked = [KEY_MAX, 0x3e000000].map((high) => sources.map((source) => ({ ...source, high })));
    return [sources, ...ranked].map((own, index) => {
      const target = kernels.allocateBlock(elementBytes(dtype, skip + count) + 64);
      const combine = index === 0 ? kernels.combineMaskedStored : kernels.combineBandedStored;
      const bad = combine(dtype, base, own, elementBytes(dtype, skip), combination, target, count);
      assert.equal(bad > 0, odd.length > 0);
      return { bad, bytes: target.bytes.subarray(elementBytes(dtype, skip), elementBytes(dtype, skip + count)) };
    });
  });
  return { bytes: Buffer.concat(all.map(({ bytes }) => bytes)), result: all.map(({ bad }) => bad) };
}

/** Ends of bands: of half the magnitudes or so, of all, of none. */
const LOWS = [0x3e800000, 0, KEY_MAX + 1];

function combineCase(kernels: Kernels, deltas: Deltas, sourceCount: number, count: number) {
  const { dtype, base, byteOffset } = deltas;
  const sources = Array.from({ length: sourceCount }, (_, index) => {
    const block = index === 0 ? deltas.source : kernels.allocateBlock(4 * (LENGTH_MAX + 64));
    if (index > 0) fillImage(block.bytes, 40 + index, index % 2 === 0);
    const bits = kernels.allocateBlock(LENGTH_MAX / 8 + 64);
    fillImage(bits.bytes, 60 + index, false);
    return { block, bits, bitOffset: 16 * index, scale: index === 1 ? 1 : 1.37, weight: 0.5 - 0.4 * index };
  });
  const plain = { elects: false, normalizes: false, divisor: 1, multiplier: 1 };
  const combinations = [
    plain,
    { ...plain, divisor: 1.7, multiplier: 0.9 },
    { ...plain, elects: true },
    { ...plain, elects: true, normalizes: true, multiplier: 1.3 },
  ];
  const bytes = combinations.map((combination) => {
    const target = kernels.allocateTile(LENGTH_MAX + 16);
    kernels.combineMasked(dtype, base, sources, byteOffset, combination, target, count);
    const masked = tileBytes(target.values, count);
    const banded = [KEY_MAX, 0x3f000000].map((high) => {
      const bands = sources.map(({ block, weight }, index) => ({ block, weight, low: LOWS[index % 3] ?? 0, high }));
      kernels.combineBanded(dtype, base, bands, byteOffset, combination, target, count);
      return tileBytes(target.values, count);
    });
    return Buffer.concat([masked, ...banded]);
  });
  return { bytes: Buffer.concat(bytes) };
}
