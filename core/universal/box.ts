// How the bytes of a consolidated tensor are gathered from the files of many ranks: boxes of the tensor, each the
// contents of a box of some rank's array, whose elements are the concatenation of byte ranges. Pure geometry: Union and
// the readers of distributed checkpoints make boxes, the converter follows them.
import assert from "node:assert/strict";
import type { Box, ByteRange, Gather, Packing } from "../checkpoint.ts";
import { type Dtype, elementBytes, elementCount, type Shape, tensorBytes } from "../tensor.ts";

/** Bytes that are zero: padding. */
export type ZeroRange = { readonly zeros: true; readonly offset: number; readonly bytes: number };
/** Bytes that the planner knows: the step of an optimizer. */
export type LiteralRange = { readonly literal: Uint8Array; readonly offset: number; readonly bytes: number };
/** A tensor of a target: what its bytes are made of. */
export type TargetTensor = { readonly dtype: Dtype; readonly shape: Shape; readonly gather: Gather<SourceRange> };
/** Bytes of another gathered tensor, row-major, each element converted to the dtype `as` (rounded once to nearest). */
export type TensorRange = {
  readonly tensor: TargetTensor;
  readonly as: Dtype;
  readonly offset: number;
  readonly bytes: number;
};
/** What a target tensor is made of: writers cut and pad the tensors that readers gather. */
export type SourceRange = ByteRange | ZeroRange | LiteralRange | TensorRange;

/** Where a box lies, whatever its bytes are. */
type BoxPlace = Omit<Box, "ranges">;

/** `count` elements from `source` on of the box's array are those from `target` on of the tensor, both flattened. */
export type Run = { readonly target: number; readonly source: number; readonly count: number };

/** The whole of an array, at an offset in the tensor. */
export function wholeBox<R>(ranges: readonly R[], shape: Shape, targetOffset: Shape = shape.map(() => 0)): Box<R> {
  return { ranges, sourceShape: shape, sourceOffset: shape.map(() => 0), size: shape, targetOffset };
}

/** A gather of one array that is the tensor. */
export function gatherWhole<R>(ranges: readonly R[], shape: Shape, packing?: Packing): Gather<R> {
  const gather = { rule: "join" as const, copies: [[wholeBox(ranges, shape)]] };
  return packing === undefined ? gather : { ...gather, packing };
}

/** The same values in another dtype, rounded once. */
export function convertTensor(tensor: TargetTensor, as: Dtype): TargetTensor {
  if (tensor.dtype === as) return tensor;
  const { shape } = tensor;
  return { dtype: as, shape, gather: gatherWhole([{ tensor, as, offset: 0, bytes: tensorBytes(as, shape) }], shape) };
}

/** Bytes that gathering a tensor reads. */
export function gatherBytes({ copies, packing }: Gather<{ readonly bytes: number }>, dtype: Dtype): number {
  if (packing !== undefined) {
    return copies.flat().reduce((sum, { ranges }) => ranges.reduce((bytes, range) => bytes + range.bytes, sum), 0);
  }
  const elements = copies.flat().reduce((sum, { size }) => sum + elementCount(size), 0);
  return elementBytes(dtype, elements);
}

/** Number of runs of a box and the elements of each: the inner axes that are whole on both sides, and the next one. */
export function measureRuns(box: BoxPlace, targetShape: Shape): { readonly runs: number; readonly count: number } {
  const outer = outerAxes(box, targetShape);
  return { runs: elementCount(box.size.slice(0, outer)), count: elementCount(box.size.slice(outer)) };
}

function outerAxes({ size, sourceShape }: BoxPlace, targetShape: Shape): number {
  let axis = size.length - 1;
  while (axis > 0 && size[axis] === sourceShape[axis] && size[axis] === targetShape[axis]) axis -= 1;
  return Math.max(0, axis);
}

/** The run number `index` of a box, in row-major order: rising in the tensor and in the source. */
export function runAt(box: BoxPlace, targetShape: Shape, index: number): Run {
  const outer = outerAxes(box, targetShape);
  let count = 1;
  let [target, source, rest] = [0, 0, index];
  let [targetStride, sourceStride] = [1, 1];
  for (let axis = box.size.length - 1; axis >= 0; axis -= 1) {
    const length = box.size[axis] ?? 1;
    const position = axis < outer ? rest % length : 0;
    if (axis < outer) rest = Math.floor(rest / length);
    else count *= length;
    target += (position + (box.targetOffset[axis] ?? 0)) * targetStride;
    source += (position + (box.sourceOffset[axis] ?? 0)) * sourceStride;
    targetStride *= targetShape[axis] ?? 1;
    sourceStride *= box.sourceShape[axis] ?? 1;
  }
  return { target, source, count };
}

/** Bytes [offset, offset + bytes) of the concatenation of ranges. */
export function sliceRanges<R extends { readonly offset: number; readonly bytes: number }>(
  ranges: readonly R[],
  offset: number,
  bytes: number,
): readonly R[] {
  const slices: R[] = [];
  let position = 0;
  for (const range of ranges) {
    const from = Math.max(offset, position);
    const to = Math.min(offset + bytes, position + range.bytes);
    if (from < to) slices.push({ ...range, offset: range.offset + from - position, bytes: to - from });
    position += range.bytes;
  }
  assert.ok(offset + bytes <= position, "a slice is within its ranges");
  return slices;
}

/**
 * The tensor as one list of ranges in row-major order, when boxes that tile it give at most `limit` of them; undefined
 * when they give more.
 */
export function flattenBoxes(
  boxes: readonly Box[],
  targetShape: Shape,
  elementBytes: number,
  limit: number,
): readonly ByteRange[] | undefined {
  const live = boxes.filter(({ size }) => elementCount(size) > 0);
  if (live.length === 0) return boxes[0]?.ranges.slice(0, 1).map((range) => ({ ...range, bytes: 0 })) ?? [];
  if (live.reduce((sum, box) => sum + measureRuns(box, targetShape).runs, 0) > limit) return undefined;
  const runs = live.flatMap((box) => {
    const { runs: count } = measureRuns(box, targetShape);
    return Array.from({ length: count }, (_, index) => ({ box, ...runAt(box, targetShape, index) }));
  });
  runs.sort((a, b) => a.target - b.target);
  const ranges: ByteRange[] = [];
  for (const { box, source, count } of runs) {
    for (const range of sliceRanges(box.ranges, source * elementBytes, count * elementBytes)) pushRange(ranges, range);
    if (ranges.length > limit) return undefined;
  }
  return ranges;
}

/** Appends a range; one that goes on where the last one ended makes it longer. */
export function pushRange(ranges: ByteRange[], range: ByteRange): void {
  const before = ranges.at(-1);
  if (before === undefined || before.file !== range.file || before.offset + before.bytes !== range.offset) {
    ranges.push(range);
  } else {
    ranges[ranges.length - 1] = { ...before, bytes: before.bytes + range.bytes };
  }
}

export type TilingProblem = { readonly found: string; readonly expected: string };

/** Why boxes do not tile a tensor: one reaches outside, two overlap, or elements are left; undefined when they do. */
export function findTilingProblem(
  boxes: readonly Pick<Box, "size" | "targetOffset">[],
  shape: Shape,
): TilingProblem | undefined {
  const total = elementCount(shape);
  const live = boxes.filter(({ size }) => elementCount(size) > 0);
  const outside = boxes.find(
    ({ size, targetOffset }) =>
      size.length !== shape.length ||
      targetOffset.length !== shape.length ||
      size.some((length, axis) => (targetOffset[axis] ?? 0) + length > (shape[axis] ?? 0)),
  );
  if (outside !== undefined) {
    return { found: `a chunk [${outside.size}] at [${outside.targetOffset}]`, expected: `inside [${shape}]` };
  }
  const overlap = findOverlap(live, shape);
  if (overlap !== undefined) return { found: `two chunks over [${overlap}]`, expected: "every element once" };
  const covered = live.reduce((sum, { size }) => sum + elementCount(size), 0);
  return covered === total ? undefined : { found: `chunks of ${covered} elements`, expected: `${total} elements` };
}

/** Sweeps along the axis with the most different offsets; only boxes that meet on it are compared. */
function findOverlap(boxes: readonly Pick<Box, "size" | "targetOffset">[], shape: Shape): Shape | undefined {
  const variety = shape.map((_, axis) => new Set(boxes.map(({ targetOffset }) => targetOffset[axis])).size);
  const axis = variety.indexOf(Math.max(...variety, 0));
  const start = (box: Pick<Box, "targetOffset">) => box.targetOffset[axis] ?? 0;
  const sorted = [...boxes].sort((a, b) => start(a) - start(b));
  let active: (typeof sorted)[number][] = [];
  for (const box of sorted) {
    active = active.filter((other) => start(other) + (other.size[axis] ?? 1) > start(box));
    const other = active.find((each) =>
      each.size.every((length, at) => {
        const [a, b] = [each.targetOffset[at] ?? 0, box.targetOffset[at] ?? 0];
        return a < b + (box.size[at] ?? 0) && b < a + length;
      }),
    );
    if (other !== undefined) return box.targetOffset;
    active.push(box);
  }
  return undefined;
}
