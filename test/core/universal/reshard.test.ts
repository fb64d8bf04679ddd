// What a rank of a target topology holds, and that all ranks together hold everything once.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { UniversalParameter } from "../../../core/artifact/universal.ts";
import { elementCount } from "../../../core/tensor.ts";
import { createStageRule, layerOf, placeOfRank, sliceParameter, stateRun } from "../../../core/universal/reshard.ts";

const parameter = (shape: number[], rest: Partial<UniversalParameter>): UniversalParameter => {
  const place = { dtype: "F32" as const, file: "model.safetensors", offset: 8, bytes: 0, digest: "" };
  return { name: "w", shape, ...place, pattern: { kind: "unique" }, ...rest };
};

test("ranks count tensor parallelism first, then data, then pipeline", () => {
  const topology = { tp: 2, dp: 3, pp: 2 };
  const places = Array.from({ length: 12 }, (_, rank) => placeOfRank(topology, rank));
  assert.deepEqual(places[1], { tp: 1, dp: 0, pp: 0 });
  assert.deepEqual(places[2], { tp: 0, dp: 1, pp: 0 });
  assert.deepEqual(places[11], { tp: 1, dp: 2, pp: 1 });
  assert.equal(new Set(places.map((place) => JSON.stringify(place))).size, 12);
});

test("a fragment's slices hold every element once, parts and widths included", () => {
  const parts = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4 }), parts, fc.integer({ min: 0, max: 1 }), (tp, units, dim) => {
      const lengths = units.map((unit) => unit * tp);
      const length = lengths.reduce((sum, part) => sum + part, 0);
      const pattern = { kind: "fragment" as const, dim, parts: lengths.map((part) => ({ length: part })) };
      const shape = [3, 3].with(dim, length);
      const seen = new Uint8Array(elementCount(shape));
      for (let rank = 0; rank < tp; rank += 1) {
        const slice = sliceParameter(parameter(shape, { pattern }), tp, rank);
        assert.equal(slice.shape[dim], length / tp);
        for (const { offset, size } of slice.boxes) {
          for (let row = 0; row < (size[0] ?? 0); row += 1) {
            for (let column = 0; column < (size[1] ?? 0); column += 1) {
              const at = ((offset[0] ?? 0) + row) * (shape[1] ?? 0) + (offset[1] ?? 0) + column;
              seen[at] = (seen[at] ?? 0) + 1;
            }
          }
        }
      }
      assert.ok(seen.every((count) => count === 1));
    }),
  );
});

test("uneven widths count for the ranks that they are of, else the cut is even or refused", () => {
  const pattern = { kind: "fragment" as const, dim: 0, parts: [{ length: 6, widths: [4, 2] }] };
  const shapes = [0, 1].map((rank) => sliceParameter(parameter([6, 2], { pattern }), 2, rank).shape);
  assert.deepEqual(shapes, [
    [4, 2],
    [2, 2],
  ]);
  assert.deepEqual(sliceParameter(parameter([6, 2], { pattern }), 3, 1).shape, [2, 2]);
  assert.throws(() => sliceParameter(parameter([6, 2], { pattern }), 4, 0), { code: "UniversalShapeMismatch" });
  assert.throws(() => sliceParameter(parameter([6, 2], {}), 2, 0), { code: "UniversalPatternsMissing" });
});

test("a vocabulary is padded to what the ranks divide, with zero rows at the end", () => {
  const vocabulary = { paddedRows: 12 };
  const fragment = { pattern: { kind: "fragment" as const, dim: 0 }, vocabulary };
  const cuts = [0, 1, 2, 3, 4].map((rank) => sliceParameter(parameter([10, 2], fragment), 5, rank));
  assert.deepEqual(
    cuts.map(({ shape }) => shape[0]),
    [3, 3, 3, 3, 3],
  );
  assert.deepEqual(
    cuts.map(({ zeroRows }) => zeroRows),
    [0, 0, 0, 2, 3],
  );
  const alone = sliceParameter(parameter([10, 2], fragment), 1, 0);
  assert.deepEqual([alone.shape, alone.zeroRows], [[12, 2], 2]);
  const columns = sliceParameter(parameter([10, 4], { pattern: { kind: "fragment", dim: 1 }, vocabulary }), 2, 1);
  assert.deepEqual([columns.shape, columns.zeroRows], [[12, 2], 2]);
});

test("runs of optimizer state cover a slice once", () => {
  for (const [elements, dp] of [
    [10, 4],
    [3, 5],
    [8, 2],
    [1, 1],
  ] as const) {
    const runs = Array.from({ length: dp }, (_, rank) => stateRun(elements, dp, rank));
    assert.equal(
      runs.reduce((sum, { count }) => sum + count, 0),
      elements,
    );
    runs.forEach(({ start, count }, index) => {
      assert.equal(start + count, runs[index + 1]?.start ?? elements);
    });
  }
});

test("stages hold blocks of layers; what names no layer is everywhere", () => {
  const names = ["embed", ...Array.from({ length: 5 }, (_, layer) => `model.layers.${layer}.w`), "norm"];
  const isOn = createStageRule(names, 2);
  const stages = names.map((name) => [0, 1].filter((stage) => isOn(name, stage)).join(""));
  assert.deepEqual(stages, ["01", "0", "0", "0", "1", "1", "01"]);
  assert.deepEqual(
    [layerOf("3.attn.weight"), layerOf("model.layers.12.w"), layerOf("lm_head.weight")],
    [3, 12, undefined],
  );
  assert.throws(() => createStageRule(names, 6), { code: "UniversalShapeMismatch" });
});
