import * as z from "zod";
import { outerProductsBytes } from "../ops/linalg/orthogonal.ts";
import { svd, svdBytes } from "../ops/linalg/svd.ts";
import { compileTaskMatrices, TASK_MATRIX_MODEL_PARAMETERS, taskMatrixBytes } from "./frames/task-matrices.ts";
import { spreadEvenly } from "./frames/triplets.ts";
import type { MergeMethod } from "./method.ts";

/**
 * Isotropic merging in the common subspace: R = W0 + scale s U V^T, with U S V^T = sum_i D_i and s the mean of S, zeros
 * included. Tensors that are not 2-D take the mean of the D_i.
 * One singular value decomposition a tensor, in float64, held whole: `svd` states the time.
 * Source: Marczak et al., arXiv:2502.04959; fusion_bench `iso_c`, merge reference section 13.
 */
export const iso_c = Object.freeze({
  id: "iso_c",
  title: "Iso-C (isotropic merging in the common subspace)",
  source: "No Task Left Behind: Isotropic Model Merging, arXiv:2502.04959",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "tensor",
  reducePasses: 0,
  scratchBytes: (tensor) =>
    taskMatrixBytes(
      tensor,
      ({ rows, columns }) => svdBytes(rows, columns) + outerProductsBytes(Math.min(rows, columns)),
    ),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({ scale: z.number().default(1) }),
  modelParameters: TASK_MATRIX_MODEL_PARAMETERS,
  compile: (tensor, kernels) =>
    compileTaskMatrices(
      tensor,
      kernels,
      (tasks, target) => {
        tasks.sum(target);
        tasks.scoped((allocate) => spreadEvenly(target, svd(target, allocate), allocate));
      },
      "scale",
    ),
} satisfies MergeMethod);
