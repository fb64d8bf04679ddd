// Packed values read back: any span of any scheme gives what dequantizing the whole tensor gives, and interleaved rows
// come in their order, however the memory is cut.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { Packing } from "../../core/checkpoint.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES } from "../../core/schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../../core/schemes/scheme.ts";
import { createPackedReader } from "../../engine/packed-reader.ts";

const [ROWS, COLUMNS] = [12, 256];
const VALUES = Float32Array.from({ length: ROWS * COLUMNS }, (_, index) => Math.sin(index * 0.37) * (1 + (index % 7)));
const SPANS = [
  [0, ROWS * COLUMNS],
  [0, 1],
  [255, 2],
  [31, 700],
  [256, 512],
  [1000, 1],
  [ROWS * COLUMNS - 5, 5],
  [7 * COLUMNS + 3, 3 * COLUMNS],
] as const;

async function read(
  packing: Packing,
  stored: Uint8Array,
  first: number,
  count: number,
  spanBytes: number,
  columns = COLUMNS,
): Promise<Float32Array> {
  const shape = [stored.length === 0 ? 0 : (ROWS * COLUMNS) / columns, columns];
  const bytesOf = async (offset: number, target: Uint8Array) => {
    assert.ok(offset + target.length <= stored.length, "no read beyond the tensor");
    target.set(stored.subarray(offset, offset + target.length));
  };
  const reader = createPackedReader({ dtype: "F32", shape }, packing, bytesOf, () => new Uint8Array(spanBytes));
  const target = new Float32Array(count);
  await reader(first, count, new Uint8Array(target.buffer));
  return target;
}

/** The tensor as [heads, rows / 2, 2] rows, as a GGUF file has it. */
function interleave(values: Float32Array, heads: number, columns: number): Float32Array {
  const rows = values.length / columns;
  const size = rows / heads;
  return Float32Array.from(values, (_, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    const inHead = row % size;
    const from = row - inHead + (inHead % 2) * (size / 2) + Math.floor(inHead / 2);
    return values[from * columns + column] ?? 0;
  });
}

function quantize(id: keyof typeof BLOCK_SCHEMES, values: Float32Array): Uint8Array {
  const scheme: BlockScheme = BLOCK_SCHEMES[id];
  const bytes = rowBytes(scheme, COLUMNS);
  const stored = new Uint8Array(ROWS * bytes);
  for (let row = 0; row < ROWS; row++) {
    const from = values.subarray(row * COLUMNS, (row + 1) * COLUMNS);
    scheme.quantize(from, stored.subarray(row * bytes, (row + 1) * bytes));
  }
  return stored;
}

suite("a packed reader", () => {
  test("gives any span of every block scheme as the whole tensor dequantizes", async () => {
    for (const scheme of BLOCK_SCHEME_IDS) {
      const stored = quantize(scheme, VALUES);
      const whole = new Float32Array(ROWS * COLUMNS);
      BLOCK_SCHEMES[scheme].dequantize(stored, whole);
      for (const [first, count] of SPANS) {
        for (const spanBytes of [BLOCK_SCHEMES[scheme].blockBytes, 1000, 2 ** 20]) {
          if (spanBytes < BLOCK_SCHEMES[scheme].blockBytes) continue;
          const got = await read({ scheme }, stored, first, count, spanBytes);
          assert.deepEqual(got, whole.subarray(first, first + count), `${scheme} ${first} ${count} ${spanBytes}`);
        }
      }
    }
  });

  test("puts interleaved rows in their order, blocks or plain, with room for one row or many", async () => {
    for (const heads of [1, 2, 3]) {
      const mixed = interleave(VALUES, heads, COLUMNS);
      const plain = new Uint8Array(mixed.buffer);
      const blocks = quantize("q8_0", mixed);
      const whole = new Float32Array(ROWS * COLUMNS);
      BLOCK_SCHEMES.q8_0.dequantize(quantize("q8_0", VALUES), whole);
      for (const [first, count] of SPANS) {
        for (const spanBytes of [COLUMNS * 4, 3 * COLUMNS * 4, 2 ** 20]) {
          const packing = { interleavedHeads: heads };
          assert.deepEqual(
            await read(packing, plain, first, count, spanBytes),
            VALUES.subarray(first, first + count),
            `${heads} ${first} ${count} ${spanBytes}`,
          );
          assert.deepEqual(
            await read({ ...packing, scheme: "q8_0" }, blocks, first, count, spanBytes),
            whole.subarray(first, first + count),
          );
        }
      }
    }
  });

  test("puts interleaved elements of a bias in their order", async () => {
    const mixed = new Uint8Array(interleave(VALUES, 4, 1).buffer);
    assert.deepEqual(await read({ interleavedHeads: 4 }, mixed, 100, 900, 64, 1), VALUES.subarray(100, 1000));
  });

  test("lets reads that begin together use its memory one after the other", async () => {
    const stored = quantize("q4_k", VALUES);
    const whole = new Float32Array(ROWS * COLUMNS);
    BLOCK_SCHEMES.q4_k.dequantize(stored, whole);
    const slow = async (offset: number, target: Uint8Array) => {
      await new Promise((resolve) => setTimeout(resolve, offset === 0 ? 5 : 0));
      target.set(stored.subarray(offset, offset + target.length));
    };
    const tensor = { dtype: "F32", shape: [ROWS, COLUMNS] } as const;
    const reader = createPackedReader(tensor, { scheme: "q4_k" }, slow, () => new Uint8Array(144));
    const targets = [0, 1, 2].map(() => new Float32Array(COLUMNS));
    await Promise.all(targets.map((target, row) => reader(row * COLUMNS, COLUMNS, new Uint8Array(target.buffer))));
    for (const [row, target] of targets.entries()) {
      assert.deepEqual(target, whole.subarray(row * COLUMNS, (row + 1) * COLUMNS));
    }
  });
});
