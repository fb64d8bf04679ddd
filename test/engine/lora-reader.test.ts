// Goal: a weight with its adapter is W + scale B A for any cut into windows, any layout of the factors and any dtype.
// Method: the formula in plain numbers over made-up tensors in a memory store.
import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { digestBytes } from "../../core/artifact/digest.ts";
import { bfloat16ToFloat32, float32ToBfloat16 } from "../../core/ops/cast.ts";
import { createScalarKernels } from "../../core/ops/kernels.ts";
import type { LoraFactor, StoredTensor, UnitInput } from "../../core/plan/schema.ts";
import { createInputReader } from "../../engine/input-reader.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { refusal } from "../refusal.ts";

const { fround } = Math;
const half = (value: number) => bfloat16ToFloat32(float32ToBfloat16(value));

/** Values that both dtypes hold exactly. */
function makeValues(elements: number, seed: number): Float32Array {
  return Float32Array.from({ length: elements }, (_, index) => half(Math.sin(seed * 100 + index)));
}

function encode(values: Float32Array, dtype: "F32" | "BF16"): Uint8Array {
  const data = dtype === "F32" ? values.slice() : Uint16Array.from(values, float32ToBfloat16);
  return new Uint8Array(data.buffer);
}

type Case = {
  readonly rows: number;
  readonly columns: number;
  readonly rank: number;
  readonly dtype: "F32" | "BF16";
  readonly factors: "F32" | "BF16";
  readonly swapped: boolean;
  readonly scale: number;
};

let stores = 0;

/** The tensors in one file of a memory store, and the unit input that reads them. */
async function setUp({ rows, columns, rank, dtype, factors, swapped, scale }: Case, wrong?: "w" | "b" | "a") {
  const [w, b, a] = [makeValues(rows * columns, 1), makeValues(rows * rank, 2), makeValues(rank * columns, 3)];
  const turned = (values: Float32Array, height: number, width: number) =>
    Float32Array.from(values, (_, index) => values[(index % height) * width + Math.floor(index / height)] ?? 0);
  const parts = [
    encode(w, dtype),
    encode(swapped ? turned(b, rows, rank) : b, factors),
    encode(swapped ? turned(a, rank, columns) : a, factors),
  ];
  const store = createMemoryStore(`lora-${++stores}`);
  await store.create("adapted/file", Buffer.concat(parts));
  const offsets = parts.map((_, index) => parts.slice(0, index).reduce((sum, part) => sum + part.length, 0));
  const place = (tensor: string, index: number, shape: number[], of: "F32" | "BF16") => ({
    source: 0,
    tensor,
    dtype: of,
    shape,
    ranges: [{ file: "file", offset: offsets[index] ?? 0, bytes: parts[index]?.length ?? 0 }],
  });
  const left: LoraFactor = { ...place("b", 1, swapped ? [rank, rows] : [rows, rank], factors), swapped };
  const right: LoraFactor = { ...place("a", 2, swapped ? [columns, rank] : [rank, columns], factors), swapped };
  const stored: StoredTensor = { ...place("w", 0, [rows, columns], dtype), lora: { rank, scale, left, right } };
  const digests = Object.fromEntries(
    ["w", "b", "a"].map((name, index) => [name, digestBytes(name === wrong ? "other" : (parts[index] ?? ""))]),
  );
  const kernels = createScalarKernels(16 * 2 ** 20);
  const deps = {
    sources: [{ model: "m+l", store: store.uri, prefix: "adapted/", digests }],
    openStore: () => store,
    signal: new AbortController().signal,
    kernels,
  };
  const input: UnitInput = { ...stored, isBase: false, parameters: {} };
  const expected = Array.from(w, (value, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    let sum = 0;
    for (let term = 0; term < rank; term++) {
      sum = fround(sum + fround((b[row * rank + term] ?? 0) * (a[term * columns + column] ?? 0)));
    }
    const merged = fround(value + fround(sum * fround(scale)));
    return dtype === "F32" ? merged : half(merged);
  });
  return { input, deps, kernels, expected };
}

async function readSpans(
  made: Awaited<ReturnType<typeof setUp>>,
  spans: readonly [number, number][],
  input: UnitInput = made.input,
) {
  const read = createInputReader(input, made.deps);
  const dtype = input.rows?.dtype ?? input.dtype;
  const unit = dtype === "F32" ? 4 : 2;
  const block = made.kernels.allocateBlock(unit * Math.max(1, ...spans.map(([, count]) => count)));
  const values = new Map<number, number>();
  for (const [first, count] of spans) {
    await read(first, count, block);
    const data = new DataView(block.bytes.buffer, block.bytes.byteOffset, unit * count);
    for (let index = 0; index < count; index++) {
      const value = unit === 4 ? data.getFloat32(4 * index, true) : bfloat16ToFloat32(data.getUint16(2 * index, true));
      values.set(first + index, value);
    }
  }
  return values;
}

const cases = fc.record({
  rows: fc.integer({ min: 1, max: 30 }),
  columns: fc.integer({ min: 1, max: 40 }),
  rank: fc.integer({ min: 1, max: 9 }),
  dtype: fc.constantFrom("F32" as const, "BF16" as const),
  factors: fc.constantFrom("F32" as const, "BF16" as const),
  swapped: fc.boolean(),
  scale: fc.constantFrom(2, 0.5, 1 / 3),
  cuts: fc.array(fc.nat(), { maxLength: 5 }),
});

test("any factors, cut into any windows, give W + scale B A", async () => {
  await fc.assert(
    fc.asyncProperty(cases, async ({ cuts, ...made }) => {
      const ready = await setUp(made);
      const total = ready.expected.length;
      const edges = [...new Set([0, ...cuts.map((cut) => cut % total), total])].sort((x, y) => x - y);
      const spans = edges
        .slice(1)
        .map((end, index): [number, number] => [edges[index] ?? 0, end - (edges[index] ?? 0)]);
      const values = await readSpans(ready, spans);
      assert.deepEqual(
        ready.expected.map((_, index) => values.get(index)),
        ready.expected,
      );
    }),
    { numRuns: 100, seed: 11 },
  );
});

test("of factors of many experts, each expert's own rows and ranks are read, and no digest of theirs", async () => {
  const [experts, rank, rows, columns] = [3, 2, 4, 5];
  const whole = await setUp({
    rows: 2 * rows,
    columns,
    rank: experts * rank,
    dtype: "F32",
    factors: "BF16",
    swapped: false,
    scale: 0.5,
  });
  const { lora: all } = whole.input;
  assert.ok(all?.right !== undefined);
  const slice = (factor: LoraFactor, first: number, count: number, width: number): LoraFactor => {
    const [range] = factor.ranges;
    assert.ok(range !== undefined);
    const ranges = [{ ...range, offset: range.offset + 2 * first * width, bytes: 2 * count * width }];
    return { ...factor, shape: [count, width], ranges };
  };
  const [b, a] = [makeValues(2 * rows * experts * rank, 2), makeValues(experts * rank * columns, 3)];
  for (let expert = 0; expert < experts; expert++) {
    // The second half of the rows, as up is of gate and up; B is [outputs, rank, experts], A [experts, rank, inputs].
    const left = { ...slice(all.left, rows, rows, experts * rank), part: { step: experts, first: expert } };
    const right = { ...slice(all.right, expert * rank, rank, columns), part: { step: 1, first: 0 } };
    const lora = { rank, scale: 0.5, left, right };
    const own: UnitInput = { ...whole.input, tensor: "half of w", shape: [rows, columns], lora };
    const weight = makeValues(2 * rows * columns, 1);
    const values = await readSpans(
      whole,
      [
        [0, 7],
        [7, 13],
      ],
      own,
    );
    for (let index = 0; index < rows * columns; index++) {
      const [row, column] = [Math.floor(index / columns), index % columns];
      let sum = 0;
      for (let term = 0; term < rank; term++) {
        const factor = b[(rows + row) * experts * rank + term * experts + expert] ?? 0;
        sum = fround(sum + fround(factor * (a[(expert * rank + term) * columns + column] ?? 0)));
      }
      assert.equal(values.get(index), fround((weight[index] ?? 0) + fround(sum * 0.5)), `expert ${expert}, ${index}`);
    }
  }
});

test("more rows than the left factor's memory holds are merged part by part", async () => {
  const ready = await setUp({
    rows: 9000,
    columns: 3,
    rank: 16,
    dtype: "BF16",
    factors: "F32",
    swapped: true,
    scale: 2,
  });
  const values = await readSpans(ready, [[1, 26_998]]);
  for (const index of [1, 2, 12_287, 12_288, 12_289, 26_998]) assert.equal(values.get(index), ready.expected[index]);
});

test("rows of an adapted embedding are gathered after the adapter is merged, and cut ones too", async () => {
  const ready = await setUp({ rows: 8, columns: 4, rank: 2, dtype: "F32", factors: "F32", swapped: false, scale: 2 });
  const gathered: UnitInput = {
    ...ready.input,
    rows: {
      dtype: "F32",
      others: [],
      means: [
        [
          [0, 1],
          [0, 2],
        ],
      ],
      runs: [
        [0, 5, 2],
        [-2, 0, 1],
        [0, 0, 1],
      ],
    },
  };
  const values = await readSpans(ready, [[0, 16]], gathered);
  const row = (index: number) => ready.expected.slice(4 * index, 4 * index + 4);
  const mean = row(1).map((value, index) => fround(fround(value + (row(2)[index] ?? 0)) / 2));
  assert.deepEqual([...values.values()], [...row(5), ...row(6), ...mean, ...row(0)]);
  const cut: UnitInput = { ...ready.input, cut: { rows: 2, columns: 3 } };
  assert.deepEqual(
    [...(await readSpans(ready, [[0, 6]], cut)).values()],
    [...row(0).slice(0, 3), ...row(1).slice(0, 3)],
  );
});

test("damaged weights and factors are noticed when they have come by from end to end", async () => {
  const made: Case = { rows: 6, columns: 4, rank: 2, dtype: "F32", factors: "F32", swapped: false, scale: 2 };
  const whole: [number, number][] = [
    [0, 10],
    [10, 14],
  ];
  for (const wrong of ["w", "b", "a"] as const) {
    const ready = await setUp(made, wrong);
    await assert.rejects(
      readSpans(ready, whole),
      refusal({ code: "EngineInputChanged", tensor: wrong, model: "m+l" }),
      wrong,
    );
  }
  await readSpans(await setUp(made), [[3, 2], ...whole, ...whole]);
});
