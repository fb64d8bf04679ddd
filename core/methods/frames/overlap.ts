// The frame of RAM's two forms: changes of one model alone are taken, times a factor of that model, and changes that
// several models made to the same element are averaged. Source: mergekit `ram`, merge reference section 4.16.
import * as z from "zod";
import type { Kernels, Tile } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import type { LargeTally } from "../../ops/overlap.ts";
import { type MergeTensor, numberParameter, type Pass, type ScratchTensor, type TensorProgram } from "../method.ts";
import { splitBase, splitTiles, tileElementsMax } from "./base-tiles.ts";

/** A change counts when its magnitude is above `epsilon`. */
export const OVERLAP_PARAMETERS = { epsilon: z.number().default(1e-5) };

/** Kernel memory of `compileOverlap`: the counts of a tile. */
export function overlapBytes(tensor: ScratchTensor): number {
  return allocatedBytes(4 * tileElementsMax("element", tensor));
}

/** From a model's numbers of unique and overlapping changes to the factor of its unique ones. */
export type UniqueFactor = (tally: LargeTally) => number;

/**
 * R = W0 + (sum_i D_i nz_i f_i) / max(c, 1), nz_i = |D_i| > epsilon, c the number of models with nz_i; f_i = 1 where
 * several models changed the element, else model i's factor. Without `uniqueFactor` all factors are 1 and one pass is
 * enough. Order and rounding: each step to float32, sums start at 0 and run in model order.
 */
export function compileOverlap(tensor: MergeTensor, kernels: Kernels, uniqueFactor?: UniqueFactor): TensorProgram {
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
