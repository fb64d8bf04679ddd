import * as z from "zod";
import { compileOverlap, OVERLAP_PARAMETERS, overlapBytes } from "./frames/overlap.ts";
import { type MergeMethod, numberParameter } from "./method.ts";

/**
 * RAM+ per tensor: as RAM, and a model's unique changes are multiplied by L_i = 1 + r clamp(rho_i, 0, alpha) with
 * rho_i = its overlapping changes / max(its unique ones, epsilon), counted over the tensor.
 * Order and rounding: L_i in float64, rounded to float32; the rest as RAM.
 * Source: Yuan et al., arXiv:2601.13572; mergekit `ramplus_tl`, merge reference section 4.16.
 */
export const ramplus_tl = Object.freeze({
  id: "ramplus_tl",
  title: "RAM+ (reinforced agent merging, tensor-local)",
  source: "Behavior Knowledge Merge in Reinforced Agentic Models, arXiv:2601.13572",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 1,
  scratchBytes: overlapBytes,
  seeded: false,
  embeddingMismatch: "error",
  referenceDtype: "float32",
  parameters: z.strictObject({
    ...OVERLAP_PARAMETERS,
    r: z.number().default(0.1),
    alpha: z.number().default(0.2),
  }),
  modelParameters: z.strictObject({}),
  compile(tensor, kernels) {
    const [r, alpha, epsilon] = ["r", "alpha", "epsilon"].map((name) => numberParameter(tensor.parameters, name));
    return compileOverlap(tensor, kernels, ({ unique, overlapping }) => {
      const ratio = overlapping / Math.max(unique, epsilon ?? 0);
      return 1 + (r ?? 0) * Math.min(Math.max(ratio, 0), alpha ?? 0);
    });
  },
} satisfies MergeMethod);
