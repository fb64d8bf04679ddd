import assert from "node:assert/strict";
import * as z from "zod";
import { type MarkedBits, WEIGHTS_FLOOR } from "../ops/consensus.ts";
import { countBits } from "../ops/deltas.ts";
import { elementCount } from "../tensor.ts";
import { splitBase, splitTiles } from "./frames/base-tiles.ts";
import { compileSceWorking } from "./frames/sce-working.ts";
import { tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import { selectByVariance, selectionBytes } from "./frames/variance-selection.ts";
import { differencesBytes, hasWorkingSteps } from "./frames/working-differences.ts";
import { type MergeMethod, numberParameter, type Pass, type TileView } from "./method.ts";

/** Sums of mean squares below this give every model the same weight. Source: merge reference section 4.11 step 4. */
const ENERGY_FLOOR = 1e-6;

/**
 * SCE: select, calculate, erase. D_i keep the elements of largest variance over the models (`select_topk` of those that
 * vary); w_i = mean(D_i^2) / sum of these; only values of the majority's sign count:
 * R = W0 + (sum_i D_i w_i e_i) / max(sum_i w_i e_i, 1e-6).
 * Order and rounding: variances and mean squares in float64 by tile, w_i rounded to float32; everything else rounds to
 * float32, sums in model order; under `strict` in 16 bits every step rounds to these. Equal variances at the cut: the
 * lowest index is kept.
 * Source: FuseChat, arXiv:2408.07990; mergekit `sce`, merge reference section 4.11.
 */
export const sce = Object.freeze({
  id: "sce",
  title: "SCE (select, calculate, erase)",
  source: "FuseChat: Knowledge Fusion of Chat Models, arXiv:2408.07990",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 3,
  scratchBytes: (tensor) =>
    (hasWorkingSteps(tensor) ? differencesBytes(tensor) : tilesBytes(2, "element", tensor)) +
    selectionBytes(tensor, numberParameter(tensor.parameters, "select_topk")),
  seeded: false,
  embeddingMismatch: "error",
  referenceDtype: "promoted",
  parameters: z.strictObject({ select_topk: z.number().default(1), int8_mask: z.boolean().default(false) }),
  modelParameters: z.strictObject({}),
  compile(tensor, kernels) {
    if (hasWorkingSteps(tensor)) {
      return compileSceWorking(tensor, kernels, { energy: ENERGY_FLOOR, weights: WEIGHTS_FLOOR });
    }
    const split = splitBase(tensor);
    const size = tileElementsMax("element", tensor);
    const [majority, weights] = [kernels.allocateTile(size), kernels.allocateTile(size)];
    const selection = selectByVariance(tensor, kernels, numberParameter(tensor.parameters, "select_topk"));
    const energies = split.others.map(() => 0);
    let mark = (_view: TileView): MarkedBits => assert.fail("a pass starts with its first tile");
    const marksOf = (view: TileView): MarkedBits => {
      if (view.firstElement === 0) mark = selection.startMarking();
      return mark(view);
    };
    const measure: Pass = {
      // The weight of a lone model is 1 whatever its energy.
      isNeeded: () => energies.length > 1,
      tile(view) {
        const { output, count } = view;
        const { base, others } = splitTiles(view, split);
        const marks = marksOf(view);
        others.forEach((model, index) => {
          kernels.fill(output, 0, count);
          kernels.addMarked(output, model, base, marks, count);
          energies[index] = (energies[index] ?? 0) + kernels.dot(output, output, count);
        });
      },
    };
    let factors: readonly number[] | undefined;
    let last: MarkedBits | undefined;
    return {
      reduce: [...selection.reduce, measure],
      apply: {
        tile(view) {
          factors ??= weightsOf(energies, elementCount(tensor.shape));
          const { output, count } = view;
          const { base, others } = splitTiles(view, split);
          const marks = marksOf(view);
          last = marks;
          const elected = { majority, sum: output, weights };
          kernels.fill(majority, 0, count);
          for (const model of others) kernels.addMarked(majority, model, base, marks, count);
          kernels.fill(output, 0, count);
          kernels.fill(weights, 0, count);
          others.forEach((model, index) => {
            kernels.addElected(elected, model, base, marks, factors?.[index] ?? 0, count);
          });
          kernels.finishElected(output, elected, base, count);
        },
      },
      countKept({ count }) {
        const kept = last === undefined ? 0 : countBits(last.bits, last.bitOffset, count);
        return split.others.map(() => kept);
      },
    };
  },
} satisfies MergeMethod);

/** Shares of the models' mean squares; equal ones where these are nearly 0. */
function weightsOf(energies: readonly number[], total: number): readonly number[] {
  const squares = energies.map((energy) => energy / total);
  const sum = squares.reduce((all, own) => all + own, 0);
  return squares.map((own) => (Math.abs(sum) < ENERGY_FLOOR ? 1 / squares.length : own / sum));
}
