import * as z from "zod";
import { weightedSum } from "./frames/combinations.ts";
import type { MergeMethod } from "./method.ts";

/**
 * Uniform soup: R = (sum_i W_i) / n, `linear` with equal weights and nothing to set.
 * Order and rounding: float32, sums in model order, one division.
 * Source: Model soups, arXiv:2203.05482; merge reference section 7.1.
 */
export const uniform_soup = Object.freeze({
  id: "uniform_soup",
  title: "Uniform soup (plain average)",
  source: "Model soups, arXiv:2203.05482",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "element",
  reducePasses: 0,
  seeded: false,
  embeddingMismatch: "common",
  parameters: z.strictObject({}),
  modelParameters: z.strictObject({}),
  isIdentity: ({ inputs }) => inputs.length === 1,
  compile({ inputs }) {
    const mean = weightedSum(
      inputs.map(() => 1),
      inputs.length,
    );
    return { reduce: [], apply: { deltas: false, combination: () => mean } };
  },
} satisfies MergeMethod);
