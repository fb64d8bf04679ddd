import * as z from "zod";
import type { Deltas } from "../ops/deltas.ts";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { splitBase, splitTiles } from "./frames/base-tiles.ts";
import { countModels, magnitudeOf, searchDeltas, searchRounds } from "./frames/model-cuts.ts";
import { blockOf, countNonzero, tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import {
  type MergeMethod,
  type MergeTensor,
  type ModelExtent,
  numberParameter,
  numbersOf,
  type ScratchTensor,
  stateList,
  type TileView,
} from "./method.ts";

/** The forms of the authors' code, and the share of a model's magnitudes that each clamps at both ends. */
const CLAMP_RATIOS = { release: 0.0001, vision: 0.01 } as const;

/**
 * PCB-Merging: parameters compete within a task and between tasks, and only those of high score are merged.
 * A = |D| clamped to the magnitudes at both `clamp_ratio` quantiles of the model, C = sign(D) A, m = A's place between
 * the two, from 0 to 1. Score B = exp(n m^2) t with n models, t = tanh(D sum_j D_j) (`release`), or sum_j tanh(c c_j)
 * of the places with their signs (`vision`). s = B's place between the model's (1 - pcb_ratio) quantile of scores and
 * its largest score, 0 below: R = W0 + (sum_i lambda_i C_i s_i) / max(sum_i s_i, 1e-12).
 * Order and rounding: each step to float32, sums in model order; exponential and tanh as `Competition` defines them.
 * Quantiles are exact, over all tensors of the merge.
 * Source: Du et al., arXiv:2410.02396; its code's `PCB_merge` and `PCB`, merge reference section 8.2.
 */
export const pcb = Object.freeze({
  id: "pcb",
  title: "PCB-Merging (parameter competition balancing)",
  source: "Parameter Competition Balancing for Model Merging, arXiv:2410.02396",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchBytes,
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({
    pcb_ratio: z.number().positive().max(1).default(0.1),
    clamp_ratio: z.number().min(0).lt(0.5).optional(),
    variant: z.enum(["release", "vision"]).default("release"),
  }),
  modelParameters: z.strictObject({ lambda: z.number().default(1) }),
  wholeModel: {
    shared: ["pcb_ratio", "clamp_ratio", "variant"],
    rounds: () => [
      ...searchDeltas("magnitudes", 2, clampRanks),
      ...searchRounds({
        name: "scores",
        lists: (tensor) => 2 * countModels(tensor),
        ranksPerList: 1,
        ranks: scoreRanks,
        scratchBytes,
        also: {
          totals: (tensor) => ({ "scores.most": { kind: "largest", length: countModels(tensor) } }),
          decide: ({ "scores.most": most }) => ({ most: Array.from(most ?? []) }),
        },
        measure(tensor, kernels, countList) {
          const tiles = allocateTiles(tensor, kernels);
          const score = createScoring(tensor, kernels, tiles);
          const { scores, sign, zero } = tiles;
          const most = new Float64Array(countModels(tensor)).fill(Number.NEGATIVE_INFINITY);
          kernels.fill(zero, 0, zero.values.length);
          const ranked: Deltas = { dtype: "F32", base: blockOf(zero), source: blockOf(sign), byteOffset: 0 };
          return {
            pass: {
              tile(view) {
                most.forEach((before, index) => {
                  score(view, index);
                  most[index] = Math.max(before, kernels.findLargest(scores, view.count));
                  // A score is ranked by its magnitude, first among the positive ones, then among the negative ones.
                  kernels.writePositive(sign, scores, 1, view.count);
                  countList(2 * index, ranked, view.count);
                  kernels.writePositive(sign, scores, -1, view.count);
                  countList(2 * index + 1, ranked, view.count);
                });
              },
            },
            totals: () => ({ "scores.most": most }),
          };
        },
      }),
    ],
  },
  compile(tensor, kernels) {
    const tiles = allocateTiles(tensor, kernels);
    const score = createScoring(tensor, kernels, tiles);
    const split = splitBase(tensor);
    const lambdas = numbersOf(tensor, split.others, "lambda");
    const ranges = magnitudeRanges(tensor);
    const cuts = scoreRanges(tensor);
    /** Adds a model's part to the output, and its scores to `weights`. */
    const compete = (view: TileView, index: number): void => {
      const { base, others } = splitTiles(view, split);
      const [model, magnitudes, places] = [others[index], ranges[index], cuts[index]];
      if (model === undefined || magnitudes === undefined || places === undefined) return;
      score(view, index);
      const part = { model, base, scores: tiles.scores, magnitudes, places, factor: lambdas[index] ?? 1 };
      kernels.addCompetitor(view.output, tiles.weights, part, view.count);
    };
    return {
      reduce: [],
      apply: {
        tile(view) {
          const { output, count } = view;
          const { base } = splitTiles(view, split);
          kernels.fill(output, 0, count);
          kernels.fill(tiles.weights, 0, count);
          for (const index of split.others.keys()) compete(view, index);
          kernels.finishCompetition(output, output, tiles.weights, base, count);
        },
      },
      countKept: (view) =>
        split.others.map((_, index) => {
          kernels.fill(tiles.weights, 0, view.count);
          compete(view, index);
          return countNonzero(kernels, tiles.weights, tiles.sign, view.count);
        }),
    };
  },
} satisfies MergeMethod);

/** Of every model, the magnitudes that its own are clamped between. */
function clampRanks(model: ModelExtent): readonly number[] {
  const { elements } = model;
  const usual = model.parameters.variant === "vision" ? CLAMP_RATIOS.vision : CLAMP_RATIOS.release;
  const ratio = Number(model.parameters.clamp_ratio ?? usual);
  const least = Math.floor(elements * ratio);
  const most = Math.max(0, Math.floor(elements * (1 - ratio) - 1));
  return Array.from({ length: countModels(model) }, () => [elements - least, elements - most]).flat();
}

/** Of every model, the rank of its score's quantile among the positive scores, and from below among the negative. */
function scoreRanks(model: ModelExtent): readonly number[] {
  const { elements } = model;
  const index = Math.floor(elements * (1 - numberParameter(model.parameters, "pcb_ratio")));
  const rank = elements - Math.min(index, elements - 1);
  return Array.from({ length: countModels(model) }, () => [rank, elements - rank + 1]).flat();
}

type Range = { readonly low: number; readonly high: number };

function magnitudeRanges({ state }: MergeTensor): readonly Range[] {
  const values = stateList(state, "magnitudes").map(magnitudeOf);
  return Array.from({ length: values.length / 2 }, (_, index) => {
    return { low: values[2 * index] ?? 0, high: values[2 * index + 1] ?? 0 };
  });
}

function scoreRanges({ state }: MergeTensor): readonly Range[] {
  const values = stateList(state, "scores").map(magnitudeOf);
  return stateList(state, "most").map((high, index) => {
    const [positive = 0, negative = 0] = values.slice(2 * index);
    return { low: positive > 0 ? positive : -negative, high };
  });
}

/** What a pass works with. `sign` and `zero` are used by measuring, `weights` by merging. */
type Tiles = {
  readonly sum: Tile;
  readonly places: Tile;
  readonly other: Tile;
  readonly scores: Tile;
  readonly sign: Tile;
  readonly zero: Tile;
  readonly weights: Tile;
};

function scratchBytes(tensor: ScratchTensor): number {
  return tilesBytes(6, "element", tensor);
}

function allocateTiles(tensor: MergeTensor, kernels: Kernels): Tiles {
  const size = tileElementsMax("element", tensor);
  const [sum, places, other] = [kernels.allocateTile(size), kernels.allocateTile(size), kernels.allocateTile(size)];
  const [scores, sign, zero] = [kernels.allocateTile(size), kernels.allocateTile(size), kernels.allocateTile(size)];
  return { sum, places, other, scores, sign, zero, weights: zero };
}

/** Fills `scores` with those of the model at that place among the others; models in order, in every tile. */
function createScoring(tensor: MergeTensor, kernels: Kernels, tiles: Tiles): (view: TileView, index: number) => void {
  const split = splitBase(tensor);
  const ranges = magnitudeRanges(tensor);
  const { sum, places, other, scores } = tiles;
  const isRelease = tensor.parameters.variant === "release";
  const writePlaces = (target: Tile, view: TileView, index: number): void => {
    const { base, others } = splitTiles(view, split);
    kernels.writePlaces(target, others[index] ?? base, base, ranges[index] ?? { low: 0, high: 0 }, view.count);
  };
  const between = (view: TileView, index: number): void => {
    const { base, others } = splitTiles(view, split);
    const { count } = view;
    kernels.fill(scores, 0, count);
    if (!isRelease) {
      others.forEach((_, rival) => {
        writePlaces(other, view, rival);
        kernels.addTanh(scores, places, other, count);
      });
      return;
    }
    if (index === 0) {
      kernels.fill(sum, 0, count);
      for (const model of others) kernels.addScaledDifference(sum, model, base, 1, count);
    }
    kernels.subtract(other, others[index] ?? base, base, count);
    kernels.addTanh(scores, other, sum, count);
  };
  return (view, index) => {
    writePlaces(places, view, index);
    between(view, index);
    kernels.scaleExp(scores, places, split.others.length, view.count);
  };
}
