// Goal: gathered rows are right for any cut into windows, in any order, with little memory. Method: the same runs
// evaluated row by row in plain numbers.
import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { bfloat16ToFloat32, float32ToBfloat16 } from "../../core/ops/cast.ts";
import { createScalarKernels } from "../../core/ops/kernels.ts";
import { ROWS_MEAN, ROWS_PADDING, ROWS_ZERO, type RowGather } from "../../core/plan/schema.ts";
import type { Dtype } from "../../core/tensor.ts";

import { createRowReader } from "../../engine/row-reader.ts";
import type { StoredReader } from "../../engine/stored-reader.ts";

type Fake = { readonly reader: StoredReader; readonly values: Float32Array; readonly reads: number[] };

/** A stored tensor of made-up values that both dtypes hold exactly. */
function fakeTensor(dtype: "F32" | "BF16", elements: number, seed: number): Fake {
  const values = Float32Array.from({ length: elements }, (_, index) =>
    bfloat16ToFloat32(float32ToBfloat16(Math.sin(seed * 100 + index))),
  );
  const half = Uint16Array.from(values, float32ToBfloat16);
  const bytes = new Uint8Array(dtype === "F32" ? values.buffer : half.buffer);
  const reads: number[] = [];
  const unit = dtype === "F32" ? 4 : 2;
  const read: StoredReader["read"] = async (first, count, target) => {
    assert.ok(first >= 0 && first + count <= elements, `${first} + ${count} of ${elements}`);
    reads.push(count);
    await Promise.resolve();
    target.bytes.set(bytes.subarray(first * unit, (first + count) * unit));
  };
  return { reader: { dtype, read }, values, reads };
}

/** The whole matrix, row by row. */
function naive(rows: RowGather, columns: number, tensors: readonly Fake[]): number[] {
  const out: number[][] = [];
  const rowOf = (from: number, row: number) => [
    ...(tensors[from]?.values.subarray(row * columns, (row + 1) * columns) ?? []),
  ];
  for (const [from, first, count] of rows.runs) {
    for (let step = 0; step < count; step++) {
      if (from >= 0) out.push(rowOf(from, first + step));
      if (from === ROWS_ZERO) out.push(new Array<number>(columns).fill(0));
      if (from === ROWS_MEAN) {
        const terms = (rows.means[first + step] ?? []).map(([tensor, row]) => rowOf(tensor, row));
        const sum = (column: number) => terms.reduce((total, term) => Math.fround(total + (term[column] ?? 0)), 0);
        out.push(Array.from({ length: columns }, (_, column) => Math.fround(sum(column) / terms.length)));
      }
    }
    if (from !== ROWS_PADDING) continue;
    const real = [...out];
    const mean = Array.from({ length: columns }, (_, column) =>
      Math.fround(real.reduce((sum, row) => sum + (row[column] ?? 0), 0) / real.length),
    );
    for (let step = 0; step < count; step++) out.push(mean);
  }
  return out.flat();
}

async function readWindows(
  rows: RowGather,
  columns: number,
  tensors: readonly Fake[],
  spans: readonly [number, number][],
) {
  const kernels = createScalarKernels(64 * 2 ** 20);
  const reader = createRowReader(
    rows,
    columns,
    tensors.map((tensor) => tensor.reader),
    kernels,
  );
  const unit = rows.dtype === "F32" ? 4 : 2;
  const block = kernels.allocateBlock(unit * Math.max(...spans.map(([, count]) => count)));
  const found = new Map<number, number>();
  for (const [first, count] of spans) {
    await reader(first, count, block);
    const data = new DataView(block.bytes.buffer, block.bytes.byteOffset, unit * count);
    for (let index = 0; index < count; index++) {
      const value = unit === 4 ? data.getFloat32(4 * index, true) : bfloat16ToFloat32(data.getUint16(2 * index, true));
      found.set(first + index, value);
    }
  }
  return found;
}

const ROWS = 40;
const run = (dtype: Dtype): fc.Arbitrary<RowGather["runs"][number]> =>
  fc.oneof(
    fc
      .tuple(fc.constantFrom(0, 1), fc.integer({ min: 0, max: ROWS - 1 }), fc.integer({ min: 1, max: 12 }))
      .map(([from, first, count]): RowGather["runs"][number] => [from, first, Math.min(count, ROWS - first)]),
    fc.integer({ min: 1, max: 3 }).map((count): RowGather["runs"][number] => [ROWS_ZERO, 0, count]),
    ...(dtype === "F32" ? [fc.constant<RowGather["runs"][number]>([ROWS_MEAN, 0, 2])] : []),
  );

const gathers = fc.constantFrom("F32" as const, "BF16" as const).chain((dtype) =>
  fc.record({
    dtype: fc.constant(dtype),
    columns: fc.integer({ min: 1, max: 7 }),
    runs: fc.array(run(dtype), { minLength: 1, maxLength: 12 }),
    padding: fc.integer({ min: 0, max: dtype === "F32" ? 5 : 0 }),
    cuts: fc.array(fc.nat(), { maxLength: 6 }),
    order: fc.boolean(),
  }),
);

test("any runs, cut into any windows, read forwards or backwards, give the rows that they name", async () => {
  await fc.assert(
    fc.asyncProperty(gathers, async ({ dtype, columns, runs, padding, cuts, order }) => {
      const own = dtype === "BF16" ? "BF16" : "F32";
      const tensors = [fakeTensor(own, ROWS * columns, 1), fakeTensor("BF16", ROWS * columns, 2)];
      const means: RowGather["means"] = [
        [
          [0, 3],
          [1, 5],
        ],
        [
          [1, 0],
          [0, 39],
          [0, 1],
        ],
      ];
      const padded: RowGather["runs"] = padding === 0 ? runs : [...runs, [ROWS_PADDING, 0, padding]];
      const rows: RowGather = { dtype, others: [], means, runs: padded };
      const expected = naive(rows, columns, tensors);
      const edges = [...new Set([0, ...cuts.map((cut) => cut % expected.length), expected.length])].sort(
        (a, b) => a - b,
      );
      const spans = edges
        .slice(1)
        .map((end, index): [number, number] => [edges[index] ?? 0, end - (edges[index] ?? 0)]);
      const found = await readWindows(rows, columns, tensors, order ? spans : spans.reverse());
      assert.deepEqual(
        expected.map((_, index) => found.get(index)),
        expected,
      );
    }),
    { numRuns: 150, seed: 7 },
  );
});

test("rows that lie close to one another are fetched by one read, and far ones are not", async () => {
  const columns = 8;
  const tensor = fakeTensor("F32", 40_000 * columns, 1);
  const near = Array.from({ length: 100 }, (_, index): RowGather["runs"][number] => [0, 199 - 2 * index, 1]);
  const rows: RowGather = { dtype: "F32", others: [], means: [], runs: [...near, [0, 39_000, 1]] };
  const found = await readWindows(rows, columns, [tensor], [[0, 101 * columns]]);
  assert.deepEqual(tensor.reads, [199 * columns, columns]);
  assert.equal(found.get(0), tensor.values[199 * columns]);
});

test("a row inside a long run of rows is a read of its own", async () => {
  const columns = 8;
  const tensor = fakeTensor("F32", 40_000 * columns, 1);
  const rows: RowGather = {
    dtype: "F32",
    others: [],
    means: [],
    runs: [
      [0, 0, 40_000],
      [0, 5, 1],
    ],
  };
  const found = await readWindows(rows, columns, [tensor], [[0, 40_001 * columns]]);
  assert.deepEqual(tensor.reads, [40_000 * columns, columns]);
  assert.equal(found.get(40_000 * columns), tensor.values[5 * columns]);
});

test("a failing read fails its window, and a later window can be read", async () => {
  const tensor = fakeTensor("F32", 100, 1);
  let broken = true;
  const reader: StoredReader = {
    dtype: "F32",
    read: (first, count, target) =>
      broken ? Promise.reject(new Error("gone")) : tensor.reader.read(first, count, target),
  };
  const kernels = createScalarKernels(64 * 2 ** 20);
  const rows: RowGather = {
    dtype: "F32",
    others: [],
    means: [],
    runs: [
      [0, 9, 1],
      [0, 0, 9],
    ],
  };
  const read = createRowReader(rows, 10, [reader], kernels);
  const block = kernels.allocateBlock(400);
  await assert.rejects(read(0, 100, block), /gone/);
  broken = false;
  await read(0, 100, block);
  assert.equal(new DataView(block.bytes.buffer, block.bytes.byteOffset).getFloat32(0, true), tensor.values[90]);
});
