import * as z from "zod";
import type { Deltas } from "../ops/deltas.ts";
import { type DivergenceScratch, rowDivergence } from "../ops/divergence.ts";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { doublesBytes, inMemory } from "../ops/linalg/matrix.ts";
import { allocatedBytes } from "../ops/memory.ts";
import { elementCount, type Shape } from "../tensor.ts";
import { type BaseSplit, splitBase, splitTiles } from "./frames/base-tiles.ts";
import { loneProgram } from "./frames/combinations.ts";
import { type FusionSteps, fusionSteps } from "./frames/fusion-working.ts";
import { blockOf, tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import { byRow, rowLength } from "./frames/vector-groups.ts";
import type { MergeMethod, MergeTensor, Pass, TileView } from "./method.ts";
import { type CutSearch, createCutSearch, searchBytes } from "./sparsify/order-statistic.ts";
import type { DeltaTile } from "./sparsify/sparsifier.ts";

/** Positions, among the importances in ascending order, of the three quartiles. */
const QUARTILES = [0.25, 0.5, 0.75];
/** The threshold is the median and this many times the distance between the outer quartiles. */
const SPREADS = 1.5;

const { fround } = Math;

/**
 * Arcee fusion: R = a + (b - a) where I >= median(I) + 1.5 (Q3(I) - Q1(I)), else a; a is the base, b the other model,
 * I = |b - a| KL(softmax(b) | softmax(a)) with a divergence for each row of the last axis. The base alone is returned.
 * Order and rounding: divergences in float64, rounded to float32; everything else rounds to float32. Quantile q is the
 * element at floor(fl(q (N - 1))), exact whatever N, where the reference samples a million elements. Under
 * `strict` the output is float32, as the reference's, unless the recipe says `out_dtype`.
 * Source: mergekit `arcee_fusion`, merge reference section 4.14.
 */
export const arcee_fusion = Object.freeze({
  id: "arcee_fusion",
  title: "Arcee Fusion",
  source: "mergekit, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: 2 },
  base: "required",
  locality: "row",
  reducePasses: 2,
  scratchBytes({ shape, inputs }) {
    if (inputs.length === 1) return 0;
    const { length, rows } = rowsOf(shape);
    const divergences = allocatedBytes(4 * rows) + 2 * doublesBytes(length);
    return tilesBytes(2, "row", { shape }) + divergences + searchBytes(elementCount(shape), 1, 3);
  },
  seeded: false,
  referenceDtype: "float32",
  embeddingMismatch: "common",
  parameters: z.strictObject({}),
  modelParameters: z.strictObject({}),
  isIdentity: ({ inputs }) => inputs.length === 1,
  compile(tensor, kernels) {
    if (tensor.inputs.length === 1) return loneProgram();
    const split = splitBase(tensor);
    const importance = createImportance(tensor, kernels, split);
    const total = elementCount(tensor.shape);
    const search = createCutSearch(kernels, total, [quartileRanks(total)]);
    const searching = search.passes.map(
      (pass): Pass => ({ ...pass, tile: (view) => pass.tile(importance.tile(view)) }),
    );
    let threshold: number | undefined;
    return {
      reduce: [importance.diverge, ...searching],
      apply: {
        tile(view) {
          threshold ??= importance.threshold(search);
          importance.tile(view);
          importance.apply(view, threshold);
        },
      },
    };
  },
} satisfies MergeMethod);

/** Rows of the last axis; a vector is one row. */
function rowsOf(shape: Shape): { readonly length: number; readonly rows: number } {
  return { length: rowLength(shape), rows: byRow(shape).groups };
}

/** Ranks of the quartiles, 1 for the largest. The product rounds to float32, as in the reference. */
function quartileRanks(total: number): readonly number[] {
  if (total === 0) return [];
  return QUARTILES.map((share) => total - Math.floor(fround(share * fround(total - 1))));
}

/** The float32 values of the quartiles. */
function quartilesOf(search: CutSearch): readonly [low: number, median: number, high: number] {
  const keys = Uint32Array.from(QUARTILES, (_, index) => search.cut(0, index).key);
  const [low = 0, median = 0, high = 0] = new Float32Array(keys.buffer);
  return [low, median, high];
}

function thresholdOf(search: CutSearch): number {
  const [low, median, high] = quartilesOf(search);
  return fround(median + fround(SPREADS * fround(high - low)));
}

/** The pass that finds the rows' divergences, and after it the importances of any tile. */
type Importance = {
  readonly diverge: Pass;
  /** Importances, which are never negative, as magnitudes of differences to 0. */
  tile(view: TileView): DeltaTile;
  threshold(search: CutSearch): number;
  /** The result of the tile given last. */
  apply(view: TileView, threshold: number): void;
};

function createImportance({ shape, working }: MergeTensor, kernels: Kernels, split: BaseSplit): Importance {
  const { length, rows } = rowsOf(shape);
  const size = tileElementsMax("row", { shape });
  const [scores, zero] = [kernels.allocateTile(size), kernels.allocateTile(size)];
  zero.values.fill(0);
  const factors = kernels.allocateBlock(4 * rows);
  const divergences = new Float32Array(factors.bytes.buffer, factors.bytes.byteOffset, rows);
  const allocate = inMemory(kernels);
  const scratch: DivergenceScratch = { p: allocate(length), q: allocate(length) };
  const deltas = { dtype: "F32", base: blockOf(zero), source: blockOf(scores), byteOffset: 0 } as const;
  const steps = working === undefined ? undefined : fusionSteps(working);
  const pair = (view: TileView) => {
    const { base, others } = splitTiles(view, split);
    return { a: base, b: others[0] ?? base };
  };
  const common = {
    diverge: divergePass(pair, length, divergences, steps?.divergence ?? rowDivergence, scratch),
  };
  if (steps !== undefined) return { ...common, ...workingScores(steps, pair, { scores, divergences, length, deltas }) };
  return {
    ...common,
    tile(view) {
      const { firstElement, count } = view;
      const { a, b } = pair(view);
      kernels.writeScores(scores, b, a, { factors, length }, firstElement, count);
      return { firstElement, count, tileElements: count, deltas: () => deltas };
    },
    threshold: thresholdOf,
    apply(view, threshold) {
      const { a, b } = pair(view);
      kernels.addScored(view.output, b, a, scores, threshold, view.count);
    },
  };
}

/** The base's tile and the other model's. */
type Pair = (view: TileView) => { readonly a: Tile; readonly b: Tile };

function divergePass(
  pair: Pair,
  length: number,
  divergences: Float32Array,
  divergence: typeof rowDivergence,
  scratch: DivergenceScratch,
): Pass {
  return {
    tile(view) {
      const { a, b } = pair(view);
      for (let start = 0; start < view.count; start += length) {
        const [own, other] = [b, a].map(({ values }) => values.subarray(start, start + length));
        const row = (view.firstElement + start) / length;
        if (own !== undefined && other !== undefined) divergences[row] = divergence(own, other, scratch);
      }
    },
  };
}

/** Importances rounded to 16 bits, encoded because they may be negative. */
function workingScores(
  steps: FusionSteps,
  pair: Pair,
  own: { readonly scores: Tile; readonly divergences: Float32Array; readonly length: number; readonly deltas: Deltas },
): Omit<Importance, "diverge"> {
  const { scores, divergences, length, deltas } = own;
  return {
    tile(view) {
      const { firstElement, count } = view;
      const { a, b } = pair(view);
      for (let i = 0; i < count; i++) {
        const factor = divergences[Math.floor((firstElement + i) / length)] ?? 0;
        scores.values[i] = steps.encode(steps.importance(b.values[i] ?? 0, a.values[i] ?? 0, factor));
      }
      return { firstElement, count, tileElements: count, deltas: () => deltas };
    },
    threshold(search) {
      const [low, median, high] = quartilesOf(search);
      return steps.threshold(steps.decode(low), steps.decode(median), steps.decode(high));
    },
    apply(view, threshold) {
      const { a, b } = pair(view);
      for (let i = 0; i < view.count; i++) {
        const [origin, kept] = [a.values[i] ?? 0, steps.decode(scores.values[i] ?? 0) >= threshold ? 1 : 0];
        view.output.values[i] = origin + steps.difference(b.values[i] ?? 0, origin) * kept;
      }
    },
  };
}
