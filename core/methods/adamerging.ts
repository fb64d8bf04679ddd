import * as z from "zod";
import { splitBase } from "./frames/base-tiles.ts";
import { sumOfOthers } from "./frames/combinations.ts";
import { type MergeMethod, numbersOf } from "./method.ts";

/**
 * AdaMerging with coefficients that were learned elsewhere: R = W0 + sum_i clamp(l_i, 0, 1) D_i. One `coefficient` for
 * a model is the task-wise form; a list of filters by tensor, or a gradient over the layers, is the layer-wise form.
 * Order and rounding: coefficients, products and sums each round to float32, sums in model order.
 * Source: AdaMerging, arXiv:2310.02575; merge reference section 9.
 */
export const adamerging = Object.freeze({
  id: "adamerging",
  title: "AdaMerging (given coefficients)",
  source: "AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv:2310.02575",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({ clamp: z.boolean().default(true) }),
  modelParameters: z.strictObject({ coefficient: z.number() }),
  isIdentity: ({ inputs }) => inputs.every(({ isBase }) => isBase),
  compile(tensor) {
    const split = splitBase(tensor);
    const given = numbersOf(tensor, split.others, "coefficient");
    const coefficients = tensor.parameters.clamp === true ? given.map((own) => Math.min(1, Math.max(0, own))) : given;
    return { reduce: [], apply: { deltas: true, combination: () => sumOfOthers(coefficients, split) } };
  },
} satisfies MergeMethod);
