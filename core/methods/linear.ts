import * as z from "zod";
import { type HalfDtype, roundingTo } from "../ops/cast.ts";
import { weightedSum } from "./frames/combinations.ts";
import { addUp } from "./frames/working-steps.ts";
import { type MergeMethod, type MergeTensor, numberParameter, type Pass } from "./method.ts";

/**
 * Weighted sum or average: R = sum_i w_i W_i, divided by sum_i w_i when `normalize`.
 * Order and rounding: the sum starts at 0 and runs in model order; product and sum round separately, the weights are
 * rounded to float32 first, the divisor is the float32 sum of the rounded weights. Exact against the reference, also
 * under `strict` in 16 bits: there weights, products, quotients and the two sums round to the working dtype.
 * Source: model soups, arXiv:2203.05482; mergekit `linear`, merge reference section 4.1.
 */
export const linear = Object.freeze({
  id: "linear",
  title: "Linear (weighted average)",
  source: "Model soups, arXiv:2203.05482",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "element",
  reducePasses: 0,
  seeded: false,
  embeddingMismatch: "common",
  referenceDtype: "promoted",
  parameters: z.strictObject({ normalize: z.boolean().default(true) }),
  modelParameters: z.strictObject({ weight: z.number() }),
  refuse(tensor) {
    if (tensor.rules.nonFinite === "propagate" || tensor.parameters.normalize !== true) return undefined;
    if (sumOfWeights(tensor) !== 0) return undefined;
    return { parameter: "weight", found: "weights that sum to 0 with normalize", expected: "a sum other than 0" };
  },
  compile(tensor) {
    const factors = tensor.inputs.map((input) => numberParameter(input.parameters, "weight"));
    const normalizes = tensor.parameters.normalize === true;
    if (tensor.working !== undefined) return { reduce: [], apply: workingPass(factors, normalizes, tensor.working) };
    const divisor = normalizes ? sumOfWeights(tensor) : 1;
    return { reduce: [], apply: { deltas: false, combination: () => weightedSum(factors, divisor) } };
  },
} satisfies MergeMethod);

/** float32 sum of the float32 weights, in model order. */
function sumOfWeights(tensor: MergeTensor): number {
  const weights = tensor.inputs.map((input) => Math.fround(numberParameter(input.parameters, "weight")));
  return weights.reduce((sum, weight) => Math.fround(sum + weight), 0);
}

/** Every step in 16 bits, but the sums, which round once. */
function workingPass(factors: readonly number[], normalizes: boolean, dtype: HalfDtype): Pass {
  const round = roundingTo(dtype);
  const weights = factors.map(round);
  const divisor = normalizes ? addUp(weights, round) : 1;
  return {
    tile({ inputs, output, count }) {
      for (let i = 0; i < count; i++) {
        const terms = inputs.map(({ values }, model) => round((weights[model] ?? 0) * (values[i] ?? 0)));
        output.values[i] = round(addUp(terms, round) / divisor);
      }
    },
  };
}
