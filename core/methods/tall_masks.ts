import * as z from "zod";
import { splitBase, splitTiles } from "./frames/base-tiles.ts";
import { chosenTask, refuseChoice, TASK_PARAMETER } from "./frames/task-choice.ts";
import { tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import { type MergeMethod, numberParameter, numbersOf } from "./method.ts";

const EMITS = ["model", "mask"] as const;

/**
 * TALL masks and consensus merging: M = sum_i D_i; model i's mask is |W0 - W_i| > l_i |W0 + M - W_i|.
 * Consensus: R = W0 + lambda M where at least `consensus` masks hold, W0 elsewhere. With `task: true` on one model:
 * that model's own, R = W0 + lambda M where its mask holds. `emit: mask` writes the mask instead: 1 where it holds,
 * else 0; without a task the number of masks that hold.
 * Order and rounding: each step to float32, sums in model order.
 * Source: Wang et al., arXiv:2405.07813; fusion_bench `generate_task_masks`, merge reference section 8.3.
 */
export const tall_masks = Object.freeze({
  id: "tall_masks",
  title: "TALL masks and consensus merging",
  source: "Localizing Task Information for Improved Model Merging and Compression, arXiv:2405.07813",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchBytes: (tensor) => tilesBytes(2, "element", tensor),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({
    consensus: z.int().min(0).default(2),
    lambda: z.number().default(1),
    emit: z.enum(EMITS).default("model"),
  }),
  modelParameters: z.strictObject({ tall_mask_lambda: z.number().min(0).default(0.6), ...TASK_PARAMETER }),
  refuse(tensor) {
    const { others } = splitBase(tensor);
    const least = numberParameter(tensor.parameters, "consensus");
    if (chosenTask(tensor) !== undefined || least <= others.length) return refuseChoice(tensor, false);
    return {
      parameter: "consensus",
      found: `${least} masks of ${others.length} models, which keeps nothing`,
      expected: `at most ${others.length}`,
    };
  },
  compile(tensor, kernels) {
    const split = splitBase(tensor);
    const size = tileElementsMax("element", tensor);
    const [sum, counts] = [kernels.allocateTile(size), kernels.allocateTile(size)];
    const chosen = chosenTask(tensor);
    const least = chosen === undefined ? numberParameter(tensor.parameters, "consensus") : 1;
    const lambda = numberParameter(tensor.parameters, "lambda");
    const shares = numbersOf(tensor, split.others, "tall_mask_lambda");
    return {
      reduce: [],
      apply: {
        tile(view) {
          const { output, count } = view;
          const { base, others } = splitTiles(view, split);
          kernels.fill(sum, 0, count);
          kernels.fill(counts, 0, count);
          for (const model of others) kernels.addScaledDifference(sum, model, base, 1, count);
          others.forEach((model, index) => {
            if (chosen !== undefined && chosen !== index) return;
            kernels.countLocal(counts, model, base, sum, shares[index] ?? 0, count);
          });
          if (tensor.parameters.emit === "mask") {
            kernels.copy(output, counts, count);
            return;
          }
          kernels.keepCounted(sum, counts, least, count);
          if (lambda !== 1) kernels.scale(sum, sum, lambda, count);
          kernels.add(output, base, sum, count);
        },
      },
    };
  },
} satisfies MergeMethod);
