import * as z from "zod";
import { type Matrix, rowOf } from "../ops/linalg/matrix.ts";
import { orthogonalPart, orthogonalPartBytes, outerProducts, outerProductsBytes } from "../ops/linalg/orthogonal.ts";
import { svd, svdBytes } from "../ops/linalg/svd.ts";
import {
  compileTaskMatrices,
  meanOf,
  TASK_MATRIX_MODEL_PARAMETERS,
  type TaskMatrices,
  taskMatrixBytes,
} from "./frames/task-matrices.ts";
import { allocateTriplets, keepTriplets, tripletsBytes } from "./frames/triplets.ts";
import type { MergeMethod } from "./method.ts";

/**
 * Task singular vectors, merged: R = W0 + alpha U S V^T. U, S, V stack the first k = floor(min(rows, columns) / n)
 * singular triplets of each D_i; then the columns of U and V are made orthonormal, each set as near to itself as it can
 * be. Tensors that are not 2-D take the mean of the D_i; so do those with a side shorter than n, where k is 0 and the
 * reference gives the base.
 * n + 2 singular value decompositions a tensor, in float64, held whole: `svd` states the time.
 * Source: Gargiulo et al., arXiv:2412.00081; fusion_bench `compute_and_sum_svd_mem_reduction`, merge reference section
 * 13.
 */
export const tsv_m = Object.freeze({
  id: "tsv_m",
  title: "TSV-Merge (task singular vectors)",
  source: "Task Singular Vectors: Reducing Task Interference in Model Merging, arXiv:2412.00081",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "tensor",
  reducePasses: 0,
  scratchBytes: (tensor) =>
    taskMatrixBytes(tensor, ({ rows, columns, tasks }) => {
      const kept = tasks * Math.floor(Math.min(rows, columns) / tasks);
      const stacked = tripletsBytes(kept, rows, columns);
      const each = svdBytes(rows, columns);
      return stacked + Math.max(each, stackedBytes(kept, rows), stackedBytes(kept, columns), outerProductsBytes(kept));
    }),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({ alpha: z.number().default(1) }),
  modelParameters: TASK_MATRIX_MODEL_PARAMETERS,
  compile: (tensor, kernels) => compileTaskMatrices(tensor, kernels, mergeTriplets, "alpha"),
} satisfies MergeMethod);

function stackedBytes(vectors: number, length: number): number {
  return vectors === 0 ? 0 : orthogonalPartBytes(vectors, length);
}

function mergeTriplets(tasks: TaskMatrices, target: Matrix): void {
  const { rows, columns, count } = tasks;
  const each = Math.floor(Math.min(rows, columns) / count);
  if (each === 0) {
    meanOf(tasks, target);
    return;
  }
  tasks.scoped((allocate) => {
    const stack = allocateTriplets(allocate, count * each, rows, columns);
    for (let task = 0; task < count; task++) {
      tasks.read(task, target);
      tasks.scoped((scratch) => keepTriplets(stack, task * each, each, svd(target, scratch)));
    }
    const { left, right, values } = stack;
    for (const vectors of [left, right]) tasks.scoped((scratch) => orthogonalPart(vectors, scratch));
    values.forEach((value, index) => {
      const row = rowOf(left, index);
      for (let i = 0; i < row.length; i++) row[i] = value * (row[i] ?? 0);
    });
    tasks.scoped((scratch) => outerProducts(target, left, right, scratch));
  });
}
