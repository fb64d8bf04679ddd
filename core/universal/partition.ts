// Load for training files: what the ranks of a target topology hold of every parameter, as gathers of the source. The
// slice of a tensor-parallel rank (reshard.ts) is cut over data-parallel ranks: in stages 1 and 2 of ZeRO the flattened
// group of slices, in stage 3 every slice by itself. Nothing is read.
// Source: reference checkpoint-formats.md sections 3.4, 3.5, 5.
import { elementBytes, elementCount, tensorBytes } from "../tensor.ts";
import { gatherWhole, type SourceRange, type TargetTensor, type TensorRange, wholeBox } from "./box.ts";
import type { ConversionParameter } from "./conversion.ts";
import { boxesOf, sliceParameter, stateRun } from "./reshard.ts";

/**
 * The part of `tensor`, a tensor of the parameter's shape, that tensor-parallel rank `rank` of `tp` holds; `paddedRows`
 * are the rows of the target's vocabulary. Throws UniversalPatternsMissing, UniversalShapeMismatch.
 */
export function sliceForRank(
  { name, shape, pattern }: Pick<ConversionParameter, "name" | "shape" | "pattern">,
  { dtype, gather }: Pick<TargetTensor, "dtype" | "gather">,
  { rank, tp, paddedRows }: { readonly rank: number; readonly tp: number; readonly paddedRows: number | undefined },
): TargetTensor {
  const vocabulary = paddedRows === undefined ? undefined : { paddedRows };
  const slice = sliceParameter({ name, shape: [...shape], pattern, vocabulary }, tp, rank);
  const boxes = boxesOf<SourceRange>(slice, [wholeRange({ dtype, shape, gather })], shape);
  if (slice.zeroRows === 0) return { dtype, shape: slice.shape, gather: { rule: "join", copies: [boxes] } };
  const own = (slice.shape[0] ?? 0) - slice.zeroRows;
  const padding = slice.shape.with(0, slice.zeroRows);
  const zeros: SourceRange = { zeros: true, offset: 0, bytes: tensorBytes(dtype, padding) };
  const padded = [...boxes, wholeBox([zeros], padding, padding.map(() => 0).with(0, own))];
  return { dtype, shape: slice.shape, gather: { rule: "join", copies: [padded] } };
}

function wholeRange(tensor: TargetTensor): TensorRange {
  return { tensor, as: tensor.dtype, offset: 0, bytes: tensorBytes(tensor.dtype, tensor.shape) };
}

/** A piece of a data-parallel rank's partition: elements of one slice, and where they begin in the partition. */
export type Piece = { readonly slice: number; readonly first: number; readonly count: number; readonly start: number };

/** What one data-parallel rank holds of a group: pieces in order, then padding up to `elements`. */
export type Partition = { readonly pieces: readonly Piece[]; readonly elements: number };

/** Stages 1 and 2: the flattened group is padded to a multiple of 2 x ranks and cut evenly. */
export function cutFlattened(counts: readonly number[], ranks: number): readonly Partition[] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const elements = 2 * Math.ceil(total / (2 * ranks));
  const partitions = Array.from({ length: ranks }, (): Piece[] => []);
  let begin = 0;
  counts.forEach((count, slice) => {
    for (let first = 0; first < count; ) {
      const rank = Math.floor((begin + first) / elements);
      const start = begin + first - rank * elements;
      const piece = { slice, first, count: Math.min(count - first, elements - start), start };
      partitions[rank]?.push(piece);
      first += piece.count;
    }
    begin += count;
  });
  return partitions.map((pieces) => ({ pieces, elements }));
}

/** Stage 3: every slice is padded to a multiple of the ranks and cut evenly; padding stands behind each piece. */
export function cutEach(counts: readonly number[], ranks: number): readonly Partition[] {
  return Array.from({ length: ranks }, (_, rank) => {
    let start = 0;
    const pieces = counts.map((count, slice): Piece => {
      const run = stateRun(count, ranks, rank);
      const piece = { slice, first: run.start, count: run.count, start };
      start += Math.ceil(count / ranks);
      return piece;
    });
    return { pieces, elements: start };
  });
}

/** The first `elements` elements of a partition as a flat float32 tensor: pieces of slices, zeros where none lies. */
export function flatTensor(
  { pieces }: Partition,
  slices: readonly (TargetTensor | undefined)[],
  elements: number,
): TargetTensor {
  const ranges: SourceRange[] = [];
  let filled = 0;
  const fillTo = (start: number): void => {
    if (start > filled) ranges.push({ zeros: true, offset: 0, bytes: 4 * (start - filled) });
    filled = Math.max(filled, start);
  };
  for (const { slice, first, count, start } of pieces) {
    const tensor = slices[slice];
    if (count === 0 || tensor === undefined) continue;
    fillTo(start);
    ranges.push({ tensor, as: "F32", offset: 4 * first, bytes: 4 * count });
    filled += count;
  }
  fillTo(elements);
  return { dtype: "F32", shape: [elements], gather: gatherWhole(ranges, [elements]) };
}

/** Rank `rank` of `ranks` of a flattened tensor, padded with zeros to a multiple of the ranks. */
export function cutPiece(tensor: TargetTensor, rank: number, ranks: number): TargetTensor {
  const { dtype } = tensor;
  const elements = elementCount(tensor.shape);
  const width = Math.ceil(elements / ranks);
  const { start, count } = stateRun(elements, ranks, rank);
  const ranges: SourceRange[] = [];
  if (count > 0)
    ranges.push({ ...wholeRange(tensor), offset: elementBytes(dtype, start), bytes: elementBytes(dtype, count) });
  if (width > count) ranges.push({ zeros: true, offset: 0, bytes: elementBytes(dtype, width - count) });
  return { dtype, shape: [width], gather: gatherWhole(ranges, [width]) };
}

/**
 * Rows of a padded vocabulary on another number of tensor-parallel ranks: padded, as trainers do, to a multiple of
 * `multiple` x ranks. Without `multiple` the smallest power of two is taken that explains the source's padding.
 */
export function vocabularyRows(
  rows: number,
  paddedRows: number,
  { from, to, multiple }: { readonly from: number; readonly to: number; readonly multiple: number | undefined },
): number {
  const padTo = (step: number) => Math.ceil(rows / step) * step;
  if (multiple !== undefined) return padTo(multiple * to);
  let inferred = 1;
  while (padTo(inferred * from) !== paddedRows && inferred < paddedRows) inferred *= 2;
  const isExplained = padTo(inferred * from) === paddedRows;
  if (from === to || !isExplained) return Math.ceil(paddedRows / to) * to;
  return padTo(inferred * to);
}
