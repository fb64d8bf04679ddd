// Goal: every WebAssembly operation gives the bits of the scalar oracle. Method: run both on the same memory images, on
// lengths around the vector widths, unaligned offsets, and values that go wrong first (NaN, infinities, signed zeros,
// subnormals, ties, overflow); compare whole tiles as integers.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { FLOAT_DTYPES } from "../../core/ops/cast.ts";
import { COMBINE_DTYPES } from "../../core/ops/combine.ts";
import type { Kernels } from "../../core/ops/kernels.ts";
import { elementBytes } from "../../core/tensor.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { buildKernels } from "../../tools/build-kernels.ts";
import { fillImage, LENGTHS, onBoth, tileBytes } from "./oracle.ts";

const LENGTH_MAX = 1000;

describe("wasm kernels give the bits of the scalar oracle", () => {
  for (const dtype of FLOAT_DTYPES) {
    test(`widen ${dtype}, counting NaN and infinities`, () => {
      for (const count of LENGTHS) {
        for (const skip of [0, 1, 3]) {
          onBoth((kernels) => {
            const block = kernels.allocateBlock(8 * (LENGTH_MAX + 8));
            fillImage(block.bytes, 7 + count, false);
            const tile = kernels.allocateTile(LENGTH_MAX + 16);
            tile.values.fill(0);
            const unit = dtype === "F64" ? 8 : dtype === "F32" ? 4 : 2;
            const result = kernels.widen(dtype, block, skip * unit, tile, count);
            return { bytes: tileBytes(tile.values, LENGTH_MAX), result };
          });
        }
      }
    });

    test(`narrow ${dtype}: nearest even, overflow, subnormals, one quiet NaN`, () => {
      for (const count of LENGTHS) {
        onBoth((kernels) => {
          const tile = kernels.allocateTile(LENGTH_MAX + 16);
          fillImage(new Uint8Array(tile.values.buffer, tile.address, 4 * LENGTH_MAX), 11 + count, false);
          const block = kernels.allocateBlock(8 * (LENGTH_MAX + 8));
          block.bytes.fill(0);
          const result = kernels.narrow(dtype, tile, block, 8, count);
          return { bytes: block.bytes, result };
        });
      }
    });
  }

  test("narrow BF16 and F16 agree on every upper half of float32 with rounding bits around the tie", () => {
    for (const dtype of ["BF16", "F16"] as const) {
      for (const low of [0x0000, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff]) {
        onBoth((kernels) => {
          const tile = kernels.allocateTile(65536);
          new Uint32Array(tile.values.buffer, tile.address, 65536).forEach((_, i, all) => {
            all[i] = i * 65536 + low;
          });
          const block = kernels.allocateBlock(2 * 65536);
          const result = kernels.narrow(dtype, tile, block, 0, 65536);
          return { bytes: block.bytes, result };
        });
      }
    }
  });

  const binary = ["add", "subtract"] as const;
  for (const name of binary) {
    test(`${name}, also in place`, () =>
      eachLength((kernels, [a, b, target], count) => {
        kernels[name](target, a, b, count);
        kernels[name](target, target, a, count);
        return target;
      }));
  }
  for (const name of ["scale", "divide"] as const) {
    test(`${name}, also in place`, () =>
      eachLength((kernels, [a, , target], count) => {
        kernels[name](target, a, 0.1, count);
        kernels[name](target, target, -3.7, count);
        return target;
      }));
  }
  test("fill and copy", () =>
    eachLength((kernels, [a, b, target], count) => {
      kernels.fill(target, -0.3, count);
      kernels.copy(b, a, count);
      kernels.add(target, target, b, count);
      return target;
    }));
  test("addScaled and addScaledDifference round after every step", () =>
    eachLength((kernels, [a, b, target], count) => {
      kernels.addScaled(target, a, 1 / 3, count);
      kernels.addScaledDifference(target, a, b, -0.7, count);
      return target;
    }));
  test("dot adds in eight lanes, then 0 to 7", () => {
    for (const count of LENGTHS) {
      onBoth((kernels) => {
        const [a, b] = [kernels.allocateTile(LENGTH_MAX), kernels.allocateTile(LENGTH_MAX)];
        fillImage(new Uint8Array(a.values.buffer, a.address, 4 * LENGTH_MAX), 3, true);
        fillImage(new Uint8Array(b.values.buffer, b.address, 4 * LENGTH_MAX), 4, true);
        return { bytes: new Uint8Array(0), result: kernels.dot(a, b, count) };
      });
    }
  });

  for (const dtype of COMBINE_DTYPES) {
    test(`addProducts of stored ${dtype} vectors, with and without a base, adds products of every pair by tile`, () => {
      for (const count of LENGTHS) {
        for (const sourceCount of [1, 2, 3, 4, 5]) {
          for (const hasBase of [false, true]) {
            onBoth((kernels) => {
              const blocks = Array.from({ length: sourceCount + 1 }, (_, index) => {
                const tile = kernels.allocateTile(LENGTH_MAX + 16);
                for (let i = 0; i < tile.values.length; i++) tile.values[i] = Math.sin(i + 1000 * index);
                const block = kernels.allocateBlock(4 * (LENGTH_MAX + 16));
                kernels.narrow(dtype, tile, block, 0, LENGTH_MAX + 16);
                return block;
              });
              const base = hasBase ? blocks[0] : undefined;
              const gram = new Float64Array(sourceCount ** 2).fill(0.25);
              kernels.addProducts(gram, { dtype, base, sources: blocks.slice(1), byteOffset: 8 }, count, 100);
              return { bytes: new Uint8Array(gram.buffer) };
            });
          }
        }
      }
    });
  }

  test("marks of signs, and their conflicts", () => {
    for (const count of LENGTHS) {
      onBoth((kernels) => {
        const marks = kernels.allocateTile(LENGTH_MAX);
        marks.values.fill(1);
        [31, 32, 33].forEach((seed, index) => {
          const tile = kernels.allocateTile(LENGTH_MAX);
          fillImage(new Uint8Array(tile.values.buffer, tile.address, 4 * LENGTH_MAX), seed, false);
          kernels.markSigns(marks, tile, index === 0, count);
        });
        const result = kernels.countConflicts(marks, count);
        return { bytes: new Uint8Array(marks.values.buffer, marks.address, 4 * LENGTH_MAX), result };
      });
    }
  });

  for (const dtype of COMBINE_DTYPES) {
    for (const sourceCount of [1, 2, 3, 7]) {
      test(`combinations of ${sourceCount} ${dtype} sources equal their single operations`, () => {
        for (const count of LENGTHS) {
          for (const finite of [true, false]) {
            onBoth((kernels) => combineCase(kernels, dtype, sourceCount, count, finite));
          }
        }
      });
    }
    for (const base of [false, true]) {
      test(`${dtype} weights combined to stored ones, odd ones among them${base ? ", with a base" : ""}`, () => {
        for (const odd of [[], [5], [1500, 2600], [2700]]) onBoth((kernels) => weightsCase(kernels, dtype, base, odd));
      });
    }
  }
});

type Three = readonly [a: Tile, b: Tile, target: Tile];
type Tile = ReturnType<Kernels["allocateTile"]>;

function eachLength(use: (kernels: Kernels, tiles: Three, count: number) => Tile): void {
  for (const count of LENGTHS) {
    onBoth((kernels) => {
      const tiles = [5, 6, 7].map((seed) => {
        const tile = kernels.allocateTile(LENGTH_MAX);
        fillImage(new Uint8Array(tile.values.buffer, tile.address, 4 * LENGTH_MAX), seed, false);
        return tile;
      });
      const [a, b, target] = tiles;
      assert.ok(a && b && target);
      return { bytes: tileBytes(use(kernels, [a, b, target], count).values, LENGTH_MAX) };
    });
  }
}

function combineCase(
  kernels: Kernels,
  dtype: (typeof COMBINE_DTYPES)[number],
  sourceCount: number,
  count: number,
  finite: boolean,
): { bytes: Uint8Array; result: string } {
  const blocks = Array.from({ length: sourceCount + 1 }, (_, index) => {
    const block = kernels.allocateBlock(4 * (LENGTH_MAX + 32));
    fillImage(block.bytes, 20 + index, finite);
    return block;
  });
  const [base, ...sources] = blocks;
  assert.ok(base);
  const [plain, deltas] = [kernels.allocateTile(LENGTH_MAX + 16), kernels.allocateTile(LENGTH_MAX + 16)];
  const combination = { factors: sources.map((_, i) => 0.3 - 0.2 * i), divisor: 1.7, multiplier: 0.9 };
  kernels.combine(dtype, undefined, sources, 64, combination, plain, count);
  kernels.combine(dtype, base, sources, 64, combination, deltas, count);
  const tiles = [tileBytes(plain.values, count), tileBytes(deltas.values, count)];
  const stored = [undefined, base].flatMap((origin) =>
    [combination.divisor, 1].map((divisor) => {
      const target = kernels.allocateBlock(4 * (LENGTH_MAX + 16));
      const bad = kernels.combineStored(dtype, origin, sources, { ...combination, divisor }, target, count);
      return { bad, bytes: target.bytes.subarray(0, elementBytes(dtype, count)) };
    }),
  );
  const result = stored.map(({ bad }) => bad).join();
  return { bytes: Buffer.concat([...tiles, ...stored.map(({ bytes }) => bytes)]), result };
}

/** Weights of several chunks; at `odd` elements a source overflows, and it is NaN before. */
function weightsCase(
  kernels: Kernels,
  dtype: (typeof COMBINE_DTYPES)[number],
  hasBase: boolean,
  odd: readonly number[],
): { bytes: Uint8Array; result: number } {
  const count = 2701;
  const tile = kernels.allocateTile(count);
  const blocks = [41, 42, 43].map((seed) => {
    fillImage(new Uint8Array(tile.values.buffer, tile.address, 4 * count), seed, true);
    if (seed === 42) for (const at of odd) tile.values.set([Number.NaN, 3.4e38].slice(0, count - at), at - 1);
    const block = kernels.allocateBlock(elementBytes(dtype, count) + 64);
    kernels.narrow(dtype, tile, block, 0, count);
    return block;
  });
  const [first, ...sources] = blocks;
  const target = kernels.allocateBlock(elementBytes(dtype, count) + 64);
  const combination = { factors: [0.4, 0.6, 0.1], divisor: 1, multiplier: 0.5 };
  const [base, all] = hasBase ? [first, sources] : [undefined, blocks];
  const result = kernels.combineStored(dtype, base, all, combination, target, count);
  assert.equal(result > 0, odd.length > 0);
  return { bytes: target.bytes.subarray(0, elementBytes(dtype, count)), result };
}

test("kernels.wasm is what its sources compile to", () => {
  const folder = mkdtempSync(join(tmpdir(), "mergeyard-kernels-"));
  try {
    const target = join(folder, "kernels.wasm");
    buildKernels(target);
    assert.ok(readFileSync(target).equals(readFileSync(new URL("../../kernels/wasm/kernels.wasm", import.meta.url))));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a kernel set refuses to hand out more memory than it has", () => {
  const kernels = createWasmKernels(1 << 16);
  assert.throws(() => kernels.allocateTile(1 << 20), { code: "KernelMemoryExhausted" });
});
