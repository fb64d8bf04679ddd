import * as z from "zod";
import { compileOverlap, OVERLAP_PARAMETERS, overlapBytes } from "./frames/overlap.ts";
import type { MergeMethod } from "./method.ts";

/**
 * RAM: an element that one model alone changed takes its change, one that several changed the mean of their changes:
 * R = W0 + sum_i D_i nz_i / max(c, 1), nz_i = |D_i| > epsilon, c the number of models with nz_i.
 * Source: Yuan et al., arXiv:2601.13572; mergekit `ram`, merge reference section 4.16.
 */
export const ram = Object.freeze({
  id: "ram",
  title: "RAM (reinforced agent merging)",
  source: "Behavior Knowledge Merge in Reinforced Agentic Models, arXiv:2601.13572",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchBytes: overlapBytes,
  seeded: false,
  embeddingMismatch: "error",
  referenceDtype: "promoted",
  parameters: z.strictObject(OVERLAP_PARAMETERS),
  modelParameters: z.strictObject({}),
  compile: (tensor, kernels) => compileOverlap(tensor, kernels),
} satisfies MergeMethod);
