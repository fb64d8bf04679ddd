// Boxes: which bytes of which range go where in a consolidated tensor.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import fc from "fast-check";
import type { Box } from "../../../core/checkpoint.ts";
import { findTilingProblem, flattenBoxes, measureRuns, sliceRanges, wholeBox } from "../../../core/universal/box.ts";

const range = (offset: number, bytes: number, file = "f") => ({ file, offset, bytes });

suite("boxes of a tensor", () => {
  test("that are cut along the rows are ranges one after the other", () => {
    const boxes = [wholeBox([range(100, 6)], [2, 3]), wholeBox([range(0, 3)], [1, 3], [2, 0])];
    assert.deepEqual(flattenBoxes(boxes, [3, 3], 1, 10), [range(100, 6), range(0, 3)]);
  });

  test("that are cut along the columns interleave by rows", () => {
    const boxes = [wholeBox([range(0, 4)], [2, 2]), wholeBox([range(50, 2)], [2, 1], [0, 2])];
    assert.deepEqual(flattenBoxes(boxes, [2, 3], 1, 10), [range(0, 2), range(50, 1), range(2, 2), range(51, 1)]);
    assert.equal(flattenBoxes(boxes, [2, 3], 1, 3), undefined);
  });

  test("take their elements from any box of their source, over the borders of ranges", () => {
    const box: Box = {
      ranges: [range(0, 5), range(20, 7)],
      sourceShape: [3, 4],
      sourceOffset: [0, 1],
      size: [3, 2],
      targetOffset: [0, 0],
    };
    assert.deepEqual(measureRuns(box, [3, 2]), { runs: 3, count: 2 });
    assert.deepEqual(flattenBoxes([box], [3, 2], 1, 10), [range(1, 2), range(20, 2), range(24, 2)]);
  });

  test("keep a tensor without elements as an empty range", () => {
    assert.deepEqual(flattenBoxes([wholeBox([range(7, 0)], [0, 3])], [0, 3], 4, 10), [range(7, 0)]);
  });

  test("give for any grid of cuts the bytes that a scalar copy gives", () => {
    const cuts = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(fc.array(cuts, { minLength: 1, maxLength: 3 }), (axes) => {
        const shape = axes.map((lengths) => lengths.reduce((sum, length) => sum + length, 0));
        const boxes = gridOf(axes);
        const bytes = new Map(boxes.map((box, index) => [box.ranges[0]?.file ?? "", contentsOf(box, shape, index)]));
        const flat = flattenBoxes(boxes, shape, 1, 1000) ?? [];
        const got = flat.flatMap(({ file, offset, bytes: count }) =>
          (bytes.get(file) ?? []).slice(offset, offset + count),
        );
        assert.deepEqual(
          got,
          got.map((_, element) => element),
        );
        assert.equal(findTilingProblem(boxes, shape), undefined);
      }),
    );
  });

  test("that do not tile the tensor are told apart: outside, overlap, hole", () => {
    const at = (size: number[], targetOffset: number[]) => ({ size, targetOffset });
    assert.equal(findTilingProblem([at([2, 2], [0, 0]), at([2, 2], [0, 2])], [2, 4]), undefined);
    assert.match(findTilingProblem([at([2, 2], [1, 0])], [2, 2])?.expected ?? "", /inside/);
    assert.match(findTilingProblem([at([2], [0])], [2, 1])?.expected ?? "", /inside/);
    assert.match(findTilingProblem([at([2, 2], [0, 0]), at([2, 1], [0, 1])], [2, 3])?.expected ?? "", /once/);
    assert.match(findTilingProblem([at([1, 2], [0, 0])], [2, 2])?.expected ?? "", /4 elements/);
    assert.equal(findTilingProblem([], [0, 4]), undefined);
  });

  test("are never cut outside of their ranges", () => {
    assert.throws(() => sliceRanges([range(0, 4)], 2, 3), { name: "AssertionError" });
  });
});

/** All boxes of a grid, each in a file of its own. */
function gridOf(axes: readonly (readonly number[])[]): readonly Box[] {
  let boxes: { size: number[]; offset: number[] }[] = [{ size: [], offset: [] }];
  for (const lengths of axes) {
    boxes = boxes.flatMap(({ size, offset }) => {
      let position = 0;
      return lengths.map((length) => {
        const box = { size: [...size, length], offset: [...offset, position] };
        position += length;
        return box;
      });
    });
  }
  return boxes.map(({ size, offset }, index) => {
    const bytes = size.reduce((product, length) => product * length, 1);
    return wholeBox([range(0, bytes, `f${index}`)], size, offset);
  });
}

/** For each element of a box: its number in the tensor. */
function contentsOf({ size, targetOffset }: Box, shape: readonly number[], _index: number): number[] {
  let positions: number[][] = [[]];
  for (const length of size) {
    positions = positions.flatMap((position) => Array.from({ length }, (_, at) => [...position, at]));
  }
  return positions.map((position) =>
    position.reduce((flat, at, axis) => flat * (shape[axis] ?? 1) + at + (targetOffset[axis] ?? 0), 0),
  );
}
