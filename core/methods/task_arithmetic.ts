import { z } from "zod";
import { type MergeMethod, numberParameter } from "./method.ts";

/** |sum of weights| below this divides by 1 instead. Source: merge reference section 4.6 step 5. */
const DIVISOR_FLOOR = 1e-8;

/**
 * Task arithmetic: R = W0 + lambda * sum_i w_i (W_i - W0), the sum divided by sum_i w_i when `normalize`.
 * Order and rounding: difference, product, sum, quotient and product with lambda each round to float32; the sum starts at
 * 0 and runs in model order. Exact against the reference.
 * Source: Ilharco et al., arXiv:2212.04089; mergekit `task_arithmetic`, merge reference section 4.6.
 */
export const task_arithmetic = Object.freeze({
  id: "task_arithmetic",
  title: "Task Arithmetic",
  source: "Editing models with task arithmetic, arXiv:2212.04089",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchTiles: () => 1,
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({
    normalize: z.boolean().default(false),
    rescale: z.boolean().default(false),
    lambda: z.number().default(1),
    int8_mask: z.boolean().default(false),
  }),
  modelParameters: z.strictObject({ weight: z.number(), density: z.number().default(1) }),
  compile(tensor) {
    const factors = tensor.inputs.map((input) => (input.isBase ? 0 : numberParameter(input.parameters, "weight")));
    const sum = factors.reduce((total, factor) => Math.fround(total + Math.fround(factor)), 0);
    const divisor = tensor.parameters.normalize === true && Math.abs(sum) >= DIVISOR_FLOOR ? sum : 1;
    const multiplier = numberParameter(tensor.parameters, "lambda");
    return { reduce: [], apply: { deltas: true, combination: () => ({ factors, divisor, multiplier }) } };
  },
} satisfies MergeMethod);
