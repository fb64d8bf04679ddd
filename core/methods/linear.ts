import { z } from "zod";
import type { MergeMethod } from "./method.ts";

/**
 * Weighted sum or average: R = sum_i w_i W_i, divided by sum_i w_i when `normalize`.
 * Order and rounding: the sum starts at 0 and runs in model order; product and sum round separately, the weights are
 * rounded to float32 first, the divisor is the float32 sum of the rounded weights. Exact against the reference.
 * Source: model soups, arXiv 2203.05482; mergekit `linear`, reference section 4.1.
 */
export const linear = Object.freeze({
  id: "linear",
  title: "Linear (weighted average)",
  source: "Model soups, arXiv:2203.05482",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "element",
  reducePasses: 0,
  scratchTiles: () => 0,
  seeded: false,
  embeddingMismatch: "common",
  parameters: z.strictObject({ normalize: z.boolean().default(true) }),
  modelParameters: z.strictObject({ weight: z.number() }),
  refuse(tensor) {
    if (tensor.parameters.normalize !== true || sumOfWeights(tensor) !== 0) return undefined;
    return { parameter: "weight", found: "weights that sum to 0 with normalize", expected: "a sum other than 0" };
  },
  compile(tensor, kernels) {
    const weights = tensor.inputs.map((input) => Number(input.parameters.weight));
    const divisor = tensor.parameters.normalize === true ? sumOfWeights(tensor) : undefined;
    return {
      reduce: [],
      apply: {
        tile({ inputs, output, count }) {
          kernels.fill(output, 0, count);
          inputs.forEach((input, index) => {
            kernels.addScaled(output, input, weights[index] ?? 0, count);
          });
          if (divisor !== undefined) kernels.divide(output, output, divisor, count);
        },
      },
    };
  },
} satisfies MergeMethod);

function sumOfWeights(tensor: Parameters<MergeMethod["compile"]>[0]): number {
  return tensor.inputs.reduce((sum, input) => Math.fround(sum + Math.fround(Number(input.parameters.weight))), 0);
}
