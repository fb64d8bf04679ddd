// Where codes end, as schemes declare it. Goal: clipped values are those and only those that no code is near. Method:
// values that come back always lie within the limits, and blocks whose clipping is known by hand.
import assert from "node:assert/strict";
import { test } from "node:test";
import { allocateParts, windowOf } from "../../../core/schemes/part-matrix.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, type BlockSchemeId, PART_SCHEMES } from "../../../core/schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../../../core/schemes/scheme.ts";
import { gaussians } from "./gaussians.ts";

/** Values that come back from a row, and the limits of each. */
function roundTripRow(id: BlockSchemeId, row: Float32Array) {
  const scheme: BlockScheme = BLOCK_SCHEMES[id];
  const blocks = new Uint8Array(rowBytes(scheme, row.length));
  scheme.quantize(row, blocks);
  const back = new Float32Array(row.length);
  scheme.dequantize(blocks, back);
  const { limits } = scheme;
  const width = limits?.width ?? row.length;
  const [low, high] = [new Float32Array(row.length / width), new Float32Array(row.length / width)];
  limits?.read(blocks, low, high);
  return { back, width, low, high };
}

function assertWithin(label: string, found: ReturnType<typeof roundTripRow>): void {
  found.back.forEach((value, i) => {
    const run = Math.floor(i / found.width);
    const [low, high] = [found.low[run] ?? 0, found.high[run] ?? 0];
    assert.ok(value >= low && value <= high, `${label}: ${value} at ${i}, limits ${low} to ${high}`);
  });
}

test("values come back within the limits of every scheme of blocks that has any", () => {
  for (const id of BLOCK_SCHEME_IDS) {
    const found = roundTripRow(id, gaussians(1024, 3));
    if (BLOCK_SCHEMES[id].limits !== undefined) assertWithin(id, found);
    else assert.ok(["bf16", "f16", "f32", "q8_0", "tq1_0", "tq2_0"].includes(id), `${id} says where its codes end`);
  }
});

test("values come back within the limits of every scheme of parts that has any", () => {
  const matrix = { rows: 64, columns: 256, dtype: "BF16" } as const;
  for (const [id, scheme] of PART_SCHEMES) {
    if (scheme.limits === undefined) continue;
    const values = gaussians(64 * 256, 5);
    const parts = scheme.parts(matrix);
    const bytes = allocateParts(parts);
    scheme.quantize(windowOf(matrix, parts, bytes, 0, values), { largest: 4 });
    const back = new Float32Array(values.length);
    const window = windowOf(matrix, parts, bytes, 0, back);
    scheme.dequantize(window);
    const width = scheme.limits.width(256);
    const [low, high] = [new Float32Array(back.length / width), new Float32Array(back.length / width)];
    scheme.limits.read(window, low, high);
    assertWithin(id, { back, width, low, high });
  }
});

test("a value is clipped when it lies more than half a step beyond the last code", () => {
  // Q4_0 takes the largest magnitude as code 0, -8 here; the last code is 7.
  const row = new Float32Array(32);
  row.set([-8, 7.4, 7.6, 7, -7.9]);
  const { low, high } = roundTripRow("q4_0", row);
  assert.deepEqual([low[0]?.toFixed(3), high[0]?.toFixed(3)], ["-8.500", "7.500"]);
  // Of a positive extreme it is the other way round.
  const mirrored = roundTripRow(
    "q4_0",
    row.map((value) => -value),
  );
  assert.deepEqual([mirrored.low[0]?.toFixed(3), mirrored.high[0]?.toFixed(3)], ["-7.500", "8.500"]);
});
