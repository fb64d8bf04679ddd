// Which part of a universal checkpoint one rank of a target topology holds: the boxes of each parameter by tensor
// parallelism, the parameters of its pipeline stage, and the run of optimizer state by data parallelism. Pure geometry,
// from universal.json alone.
// Source: reference checkpoint-formats.md section 5; Universal Checkpointing, arXiv:2406.18820, section 3.
import type { UniversalParameter } from "../artifact/universal.ts";
import type { Box } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { Shape } from "../tensor.ts";

/** Sizes of a topology, and a place in it. */
export type Parallelism = { readonly tp: number; readonly pp: number; readonly dp: number };

/** Place of a global rank: tensor parallelism innermost, then data, then pipeline, as Megatron and DeepSpeed count. */
export function placeOfRank({ tp, dp }: Parallelism, rank: number): Parallelism {
  return { tp: rank % tp, dp: Math.floor(rank / tp) % dp, pp: Math.floor(rank / (tp * dp)) };
}

/** Elements [offset, offset + size) of the parameter go to `target` of the slice. */
export type SliceBox = { readonly offset: Shape; readonly size: Shape; readonly target: Shape };

export type ParameterSlice = {
  /** Of the slice as the rank holds it, rows of padding included. */
  readonly shape: Shape;
  readonly boxes: readonly SliceBox[];
  /** Rows at the end that are zero: the vocabulary's padding. */
  readonly zeroRows: number;
  /** True when the slice is the whole parameter, padding aside. */
  readonly isWhole: boolean;
};

/**
 * The slice of a parameter on tensor-parallel rank `rank` of `tp`. What is replicated or averaged is whole on each; a
 * fragment's parts are cut by themselves, by their widths where these are for `tp` ranks, else evenly; a vocabulary is
 * padded to what `tp` divides. Throws UniversalPatternsMissing, UniversalShapeMismatch.
 */
export function sliceParameter(
  { name, shape, pattern, vocabulary }: Pick<UniversalParameter, "name" | "shape" | "pattern" | "vocabulary">,
  tp: number,
  rank: number,
): ParameterSlice {
  const zeroRows = vocabulary === undefined ? 0 : vocabulary.paddedRows - (shape[0] ?? 0);
  if (tp === 1 || pattern.kind === "replicated" || pattern.kind === "averaged") {
    return padRows(wholeSlice(shape), zeroRows);
  }
  if (pattern.kind === "unique") {
    throw new MergeyardError("UniversalPatternsMissing", {
      where: { tensor: name },
      found: "pattern unique",
      expected: `a pattern that says how ${tp} tensor-parallel ranks cut it`,
      hint: "restore with --tp 1, or convert the checkpoint again with the patterns of its model",
    });
  }
  const { dim } = pattern;
  if (vocabulary !== undefined && dim === 0) return sliceVocabulary(shape, vocabulary.paddedRows, tp, rank);
  const boxes: SliceBox[] = [];
  let [partStart, target] = [0, 0];
  for (const { length, widths } of pattern.parts ?? [{ length: shape[dim] ?? 0, widths: undefined }]) {
    const own = widths?.length === tp ? widths : evenWidths(name, length, tp);
    const before = own.slice(0, rank).reduce((sum, width) => sum + width, 0);
    const width = own[rank] ?? 0;
    boxes.push(boxOf(shape, dim, partStart + before, width, target));
    target += width;
    partStart += length;
  }
  const live = boxes.filter(({ size }) => (size[dim] ?? 0) > 0);
  return padRows({ shape: shape.with(dim, target), boxes: live, zeroRows: 0, isWhole: false }, zeroRows);
}

function evenWidths(name: string, length: number, tp: number): readonly number[] {
  if (length % tp === 0) return new Array<number>(tp).fill(length / tp);
  throw new MergeyardError("UniversalShapeMismatch", {
    where: { tensor: name },
    found: `an axis of ${length}`,
    expected: `a length that ${tp} tensor-parallel ranks divide`,
  });
}

function sliceVocabulary(shape: Shape, paddedRows: number, tp: number, rank: number): ParameterSlice {
  const rows = shape[0] ?? 0;
  const width = Math.ceil(paddedRows / tp);
  const start = Math.min(rows, rank * width);
  const own = Math.min(rows, (rank + 1) * width) - start;
  const boxes = own === 0 ? [] : [boxOf(shape, 0, start, own, 0)];
  return padRows({ shape: shape.with(0, own), boxes, zeroRows: 0, isWhole: false }, width - own);
}

function padRows(slice: ParameterSlice, zeroRows: number): ParameterSlice {
  if (zeroRows <= 0) return slice;
  return { ...slice, shape: slice.shape.with(0, (slice.shape[0] ?? 0) + zeroRows), zeroRows };
}

function wholeSlice(shape: Shape): ParameterSlice {
  const zero = shape.map(() => 0);
  return { shape, boxes: [{ offset: zero, size: shape, target: zero }], zeroRows: 0, isWhole: true };
}

/** The slice's boxes of a parameter whose elements are those of `ranges`. */
export function boxesOf<R>(slice: ParameterSlice, ranges: readonly R[], shape: Shape): readonly Box<R>[] {
  return slice.boxes.map(({ offset, size, target }) => {
    return { ranges, sourceShape: shape, sourceOffset: offset, size, targetOffset: target };
  });
}

function boxOf(shape: Shape, dim: number, start: number, width: number, target: number): SliceBox {
  const zero = shape.map(() => 0);
  return { offset: zero.with(dim, start), size: shape.with(dim, width), target: zero.with(dim, target) };
}

/** A run of elements of a flattened slice. `start` may be its end when nothing is left. */
export type StateRun = { readonly start: number; readonly count: number };

/**
 * Elements of a flattened slice whose optimizer state data-parallel rank `rank` of `dp` holds: pieces of
 * ceil(elements / dp), the last ones shorter or empty.
 */
export function stateRun(elements: number, dp: number, rank: number): StateRun {
  const piece = Math.ceil(elements / dp);
  const start = Math.min(elements, rank * piece);
  return { start, count: Math.min(elements, start + piece) - start };
}

/** Number of the layer that a parameter belongs to: the first whole number among the parts of its name. */
export function layerOf(name: string): number | undefined {
  const part = name.split(".").find((each) => /^\d{1,9}$/.test(each));
  return part === undefined ? undefined : Number(part);
}

/**
 * Whether pipeline stage `stage` of `pp` holds a parameter. Layers are cut into blocks as equal as can be, the first
 * ones longer. What names no layer (embeddings, the last norm, the head) is on every stage: more than a stage needs,
 * never less. Throws UniversalShapeMismatch when there are fewer layers than stages.
 */
export function createStageRule(names: readonly string[], pp: number): (name: string, stage: number) => boolean {
  const layers = [...new Set(names.flatMap((name) => layerOf(name) ?? []))].sort((a, b) => a - b);
  if (pp > 1 && layers.length < pp) {
    throw new MergeyardError("UniversalShapeMismatch", { found: `${layers.length} layers`, expected: `${pp} stages` });
  }
  const order = new Map(layers.map((layer, index) => [layer, index]));
  const [short, longer] = [Math.floor(layers.length / pp), layers.length % pp];
  const startOf = (stage: number) => stage * short + Math.min(stage, longer);
  return (name, stage) => {
    const index = order.get(layerOf(name) ?? -1);
    return pp === 1 || index === undefined || (index >= startOf(stage) && index < startOf(stage + 1));
  };
}
