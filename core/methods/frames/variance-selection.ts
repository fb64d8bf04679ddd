// Which elements models differ in most: those of largest variance over the models, exactly as many as asked for. Tiles
// of variances are made anew in every pass; the cut is found as that of magnitudes is, variances being their own.
import type { MarkedBits } from "../../ops/consensus.ts";
import type { Deltas } from "../../ops/deltas.ts";
import type { Kernels } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import { elementCount } from "../../tensor.ts";
import type { MergeTensor, Pass, ScratchTensor, TileView } from "../method.ts";
import { markLargest } from "../sparsify/magnitude.ts";
import { marksBytes } from "../sparsify/mask-store.ts";
import { createCutSearch, searchBytes } from "../sparsify/order-statistic.ts";
import type { Round } from "../sparsify/rescale.ts";
import type { DeltaTile } from "../sparsify/sparsifier.ts";
import { splitBase, splitTiles } from "./base-tiles.ts";
import { blockOf, tileElementsMax } from "./tiles.ts";

export type VarianceSelection = {
  readonly reduce: readonly Pass[];
  /** Begins a pass over all tiles in order; what it returns marks the kept elements of each. */
  startMarking(): (view: TileView) => MarkedBits;
};

/** True where the share says neither all nor nothing. */
function selects(share: number): boolean {
  return share > 0 && share < 1;
}

/** Kernel memory of `selectByVariance`. */
export function selectionBytes(tensor: ScratchTensor, share: number): number {
  const tile = tileElementsMax("element", tensor);
  if (!selects(share)) return allocatedBytes(marksBytes(tile));
  const tiles = 2 * allocatedBytes(8 * tile) + 2 * allocatedBytes(4 * tile);
  return allocatedBytes(marksBytes(tile)) + tiles + searchBytes(elementCount(tensor.shape), 1, 1);
}

/**
 * Keeps the floor(share M) elements of largest population variance over the models' differences to the base, M the
 * number of elements where it is not 0; of equal variances those with the lowest index. A share of 1 or more keeps all
 * elements, of 0 or less none. Variances in float64 by Welford's rule, rounded to float32, then by `round`. Under
 * `strict` the product that is floored is float32, as the reference's.
 */
export function selectByVariance(
  tensor: MergeTensor,
  kernels: Kernels,
  share: number,
  round: Round = Math.fround,
): VarianceSelection {
  const bits = kernels.allocateBlock(marksBytes(tileElementsMax("element", tensor)));
  const marks = { bits, bitOffset: 0 };
  if (selects(share)) return selectShare(tensor, kernels, share, marks, createVariances(tensor, kernels, round));
  return {
    reduce: [],
    startMarking() {
      bits.bytes.fill(share >= 1 ? 0xff : 0);
      return () => marks;
    },
  };
}

function selectShare(
  tensor: MergeTensor,
  kernels: Kernels,
  share: number,
  marks: MarkedBits,
  variances: (view: TileView) => DeltaTile,
): VarianceSelection {
  let nonzero = 0;
  const { fround } = Math;
  const kept = () => Math.floor(tensor.rules.strict ? fround(fround(nonzero) * fround(share)) : nonzero * share);
  const search = createCutSearch(kernels, elementCount(tensor.shape), [[kept]]);
  const counting: Pass = {
    tile(view) {
      nonzero += view.count - kernels.countEqual(variances(view).deltas(0), 0, view.count);
    },
  };
  const searching = search.passes.map(
    (pass): Pass => ({
      ...pass,
      tile: (view) => pass.tile(variances(view)),
      isNeeded: () => kept() > 0 && pass.isNeeded?.() !== false,
    }),
  );
  return {
    reduce: [counting, ...searching],
    startMarking() {
      if (kept() === 0) {
        marks.bits.bytes.fill(0);
        return () => marks;
      }
      const mark = markLargest(kernels, search.cut(0, 0), kept(), search.scratch(0));
      return (view) => {
        mark(0, variances(view), marks.bits, marks.bitOffset);
        return marks;
      };
    },
  };
}

/** Variances of a tile as magnitudes of differences to 0. */
function createVariances(tensor: MergeTensor, kernels: Kernels, round: Round): (view: TileView) => DeltaTile {
  const split = splitBase(tensor);
  const size = tileElementsMax("element", tensor);
  const moments = { means: kernels.allocateBlock(8 * size), squares: kernels.allocateBlock(8 * size) };
  const [variance, zero] = [kernels.allocateTile(size), kernels.allocateTile(size)];
  zero.values.fill(0);
  const stored: Deltas = { dtype: "F32", base: blockOf(zero), source: blockOf(variance), byteOffset: 0 };
  return (view) => {
    const { firstElement, count } = view;
    const { base, others } = splitTiles(view, split);
    others.forEach((model, index) => {
      kernels.addMoments(moments, model, base, index + 1, count);
    });
    kernels.writeVariance(variance, moments, others.length, count);
    if (round !== Math.fround) for (let i = 0; i < count; i++) variance.values[i] = round(variance.values[i] ?? 0);
    return { firstElement, count, tileElements: count, deltas: () => stored };
  };
}
