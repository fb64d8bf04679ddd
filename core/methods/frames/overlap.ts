// The frame of RAM's two forms: changes of one model alone are taken, times a factor of that model, and changes that
// several models made to the same element are averaged. Source: mergekit `ram`, merge reference section 4.16.
import * as z from "zod";
import type { Kernels, Tile } from "../../ops/kernels.ts";
import type { LargeTally } from "../../ops/overlap.ts";
import {
  type MergeTensor,
  numberParameter,
  type Pass,
  type ScratchTensor,
  type TensorProgram,
  type TileView,
} from "../method.ts";
import { splitBase, splitTiles } from "./base-tiles.ts";
import { tileElementsMax, tilesBytes } from "./tiles.ts";
import { commonRound, createWorkingDifferences, differencesBytes, hasWorkingSteps } from "./working-differences.ts";
import { addUp } from "./working-steps.ts";

/** A change counts when its magnitude is above `epsilon`. */
export const OVERLAP_PARAMETERS = { epsilon: z.number().default(1e-5) };

/** Kernel memory of `compileOverlap`: the counts of a tile, or its differences. */
export function overlapBytes(tensor: ScratchTensor): number {
  if (hasWorkingSteps(tensor)) return differencesBytes(tensor);
  return tilesBytes(1, "element", tensor);
}

/** From a model's numbers of unique and overlapping changes to the factor of its unique ones. */
export type UniqueFactor = (tally: LargeTally) => number;

/**
 * R = W0 + (sum_i D_i nz_i f_i) / max(c, 1), nz_i = |D_i| > epsilon, c the number of models with nz_i; f_i = 1 where
 * several models changed the element, else model i's factor. Without `uniqueFactor` all factors are 1 and one pass is
 * enough. Order and rounding: each step to float32, sums start at 0 and run in model order. Under `strict` in 16 bits
 * every step rounds to these, and each change is divided before it is added.
 */
export function compileOverlap(tensor: MergeTensor, kernels: Kernels, uniqueFactor?: UniqueFactor): TensorProgram {
  if (hasWorkingSteps(tensor)) return compileWorkingOverlap(tensor, kernels, uniqueFactor);
  const split = splitBase(tensor);
  const epsilon = numberParameter(tensor.parameters, "epsilon");
  const counts = kernels.allocateTile(tileElementsMax("element", tensor));
  const tallies = split.others.map(() => ({ unique: 0, overlapping: 0 }));
  let factors: readonly number[] = tallies.map(() => 1);
  const countTile = (models: readonly Tile[], base: Tile, count: number): void => {
    models.forEach((model, index) => {
      kernels.countLarge(counts, model, base, epsilon, index === 0, count);
    });
  };
  const tally: Pass = {
    tile(view) {
      const { base, others } = splitTiles(view, split);
      countTile(others, base, view.count);
      tallies.forEach((own, index) => {
        const { unique, overlapping } = kernels.tallyLarge(counts, others[index] ?? base, base, epsilon, view.count);
        own.unique += unique;
        own.overlapping += overlapping;
      });
    },
    finish() {
      if (uniqueFactor !== undefined) factors = tallies.map(uniqueFactor);
    },
  };
  return {
    reduce: uniqueFactor === undefined ? [] : [tally],
    apply: {
      tile(view) {
        const { output, count } = view;
        const { base, others } = splitTiles(view, split);
        countTile(others, base, count);
        kernels.fill(output, 0, count);
        others.forEach((model, index) => {
          kernels.addLarge(output, counts, model, base, epsilon, factors[index] ?? 1, count);
        });
        kernels.finishLarge(output, counts, base, count);
      },
    },
  };
}

/** The same with every step rounded as the reference does; factors are float32 and make the sum float32. */
function compileWorkingOverlap(tensor: MergeTensor, kernels: Kernels, uniqueFactor?: UniqueFactor): TensorProgram {
  const split = splitBase(tensor);
  const round = commonRound(tensor);
  const roundSum = uniqueFactor === undefined ? round : Math.fround;
  const epsilon = round(numberParameter(tensor.parameters, "epsilon"));
  const toDifferences = createWorkingDifferences(tensor, kernels);
  const tallies = split.others.map(() => ({ unique: 0, overlapping: 0 }));
  let factors: readonly number[] = tallies.map(() => 1);
  /** Of an element: every model's change, 0 where it is small, and how many are not. */
  const changesOf = (view: TileView) => {
    const { others } = splitTiles(toDifferences(view), split);
    return (i: number) => {
      const all = others.map(({ values }) => values[i] ?? 0);
      const large = all.map((value) => Math.abs(value) > epsilon);
      return { all, large, count: large.filter(Boolean).length };
    };
  };
  const tally: Pass = {
    tile(view) {
      const changes = changesOf(view);
      for (let i = 0; i < view.count; i++) {
        const { large, count } = changes(i);
        tallies.forEach((own, model) => {
          if (large[model] === true) own[count === 1 ? "unique" : "overlapping"]++;
        });
      }
    },
    finish() {
      if (uniqueFactor !== undefined) factors = tallies.map(uniqueFactor).map(Math.fround);
    },
  };
  return {
    reduce: uniqueFactor === undefined ? [] : [tally],
    apply: {
      tile(view) {
        const changes = changesOf(view);
        const { base } = splitTiles(view, split);
        for (let i = 0; i < view.count; i++) {
          const { all, large, count } = changes(i);
          const terms = all.map((value, model) => {
            const own = value * (large[model] === true ? 1 : 0);
            return count === 1 ? roundSum(own * (factors[model] ?? 1)) : round(own / Math.max(count, 1));
          });
          view.output.values[i] = roundSum((base.values[i] ?? 0) + addUp(terms, roundSum));
        }
      },
    },
  };
}
