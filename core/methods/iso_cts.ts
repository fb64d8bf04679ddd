import * as z from "zod";
import { addScaledDoubles, doublesBytes, type Matrix, rowOf } from "../ops/linalg/matrix.ts";
import { orthogonalPart, orthogonalPartBytes, outerProductsBytes } from "../ops/linalg/orthogonal.ts";
import { svd, svdBytes } from "../ops/linalg/svd.ts";
import {
  compileTaskMatrices,
  TASK_MATRIX_MODEL_PARAMETERS,
  type TaskMatrices,
  taskMatrixBytes,
} from "./frames/task-matrices.ts";
import { allocateTriplets, keepTriplets, spreadEvenly, tripletsBytes } from "./frames/triplets.ts";
import { type MergeMethod, numberParameter } from "./method.ts";

/**
 * Isotropic merging in the common and task-specific subspaces: R = W0 + scale s U V^T. U and V stack the first
 * triplets that the D_i have beyond the common part, each task as many, and the first of sum_i D_i, the common part,
 * about `common_space_fraction` of all; then they are made orthonormal. s is the mean of the stacked singular values.
 * Tensors that are not 2-D take the mean of the D_i.
 * n + 3 singular value decompositions a tensor, in float64, held whole: `svd` states the time.
 * Source: Marczak et al., arXiv:2502.04959; fusion_bench `iso_cts`, merge reference section 13.
 */
export const iso_cts = Object.freeze({
  id: "iso_cts",
  title: "Iso-CTS (isotropic merging in common and task-specific subspaces)",
  source: "No Task Left Behind: Isotropic Model Merging, arXiv:2502.04959",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "tensor",
  reducePasses: 0,
  scratchBytes: (tensor) =>
    taskMatrixBytes(tensor, ({ rows, columns }) => {
      const kept = Math.min(rows, columns);
      const stacked = tripletsBytes(kept, rows, columns);
      const projected = doublesBytes(columns) + svdBytes(rows, columns);
      const orthogonal = Math.max(orthogonalPartBytes(kept, rows), orthogonalPartBytes(kept, columns));
      return stacked + Math.max(projected, orthogonal, outerProductsBytes(kept));
    }),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({
    common_space_fraction: z.number().min(0).max(1).default(0.8),
    scale: z.number().default(1),
  }),
  modelParameters: TASK_MATRIX_MODEL_PARAMETERS,
  compile(tensor, kernels) {
    const fraction = numberParameter(tensor.parameters, "common_space_fraction");
    return compileTaskMatrices(tensor, kernels, (tasks, target) => mergeSpaces(tasks, target, fraction), "scale");
  },
} satisfies MergeMethod);

/** The stack has triplets of the tasks, each as many, then the common ones. */
function mergeSpaces(tasks: TaskMatrices, target: Matrix, fraction: number): void {
  const { rows, columns, count } = tasks;
  const all = Math.min(rows, columns);
  const each = specificEach(all, count, fraction);
  tasks.scoped((allocate) => {
    const stack = allocateTriplets(allocate, all, rows, columns);
    tasks.sum(target);
    tasks.scoped((scratch) => keepTriplets(stack, count * each, all - count * each, svd(target, scratch)));
    const common = stack.left.values.subarray(count * each * rows);
    for (let task = 0; task < count && each > 0; task++) {
      tasks.read(task, target);
      tasks.scoped((scratch) => {
        removeSpace(target, { rows: all - count * each, columns: rows, values: common }, scratch(columns));
        keepTriplets(stack, task * each, each, svd(target, scratch));
      });
    }
    for (const vectors of [stack.left, stack.right]) tasks.scoped((scratch) => orthogonalPart(vectors, scratch));
    tasks.scoped((scratch) => spreadEvenly(target, stack, scratch));
  });
}

/** Task-specific triplets of each task: (all - floor(all fraction)) / count, rounded to the nearest even on a half. */
function specificEach(all: number, count: number, fraction: number): number {
  const share = (all - Math.floor(all * fraction)) / count;
  const below = Math.floor(share);
  const rounded = share - below === 0.5 ? below + (below % 2) : Math.round(share);
  return Math.min(rounded, Math.floor(all / count));
}

/** D := D - U U^T D, U's columns given as the rows of `space`; `part` is a row of D. */
function removeSpace(delta: Matrix, space: Matrix, part: Float64Array): void {
  for (let i = 0; i < space.rows; i++) {
    const direction = rowOf(space, i);
    part.fill(0);
    for (let row = 0; row < delta.rows; row++) addScaledDoubles(part, rowOf(delta, row), direction[row] ?? 0);
    for (let row = 0; row < delta.rows; row++) addScaledDoubles(rowOf(delta, row), part, -(direction[row] ?? 0));
  }
}
