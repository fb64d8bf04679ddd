import { z } from "zod";
import { allocateMatrix, doublesBytes, type Matrix, rowOf } from "../ops/linalg/matrix.ts";
import { outerProducts, outerProductsBytes } from "../ops/linalg/orthogonal.ts";
import { svdBytes } from "../ops/linalg/svd.ts";
import { type MergeMethod, numberParameter } from "./method.ts";
import { compileTaskMatrices, type TaskMatrices, taskMatrixBytes } from "./task-matrices.ts";
import { alignTasks } from "./task-space.ts";

/**
 * KnOTS with TIES: the D_i side by side have one decomposition U S V^T, which gives every task coordinates
 * T_i = S V_i^T in the shared basis U. Of each T_i the floor(density N) largest elements are kept, signs are elected by
 * their sum, a sum of 0 being positive, and R = W0 + scale U M, M the mean of the kept elements that agree. Singular
 * values up to `eps` are left out. Tensors that are not 2-D take the mean of the D_i.
 * Elements are chosen in each tensor by itself, as this project's `ties` does, where the paper's code chooses over the
 * whole model. One decomposition of [rows, n columns], in float64, held whole: `svd` states the time.
 * Source: Stoica et al., arXiv:2410.19735; merge reference section 13.
 */
export const knots = Object.freeze({
  id: "knots",
  title: "KnOTS with TIES",
  source: "Model merging with SVD to tie the Knots, arXiv:2410.19735",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "tensor",
  reducePasses: 0,
  scratchTiles: () => 0,
  scratchBytes: (tensor) =>
    taskMatrixBytes(tensor, ({ rows, columns, tasks }) => {
      const kept = Math.min(rows, tasks * columns);
      const coordinates = doublesBytes(tasks * rows * columns) + doublesBytes(kept * columns) * 2;
      return coordinates + svdBytes(rows, tasks * columns) + outerProductsBytes(kept);
    }),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({ scale: z.number().default(1), eps: z.number().nonnegative().default(1e-5) }),
  modelParameters: z.strictObject({
    weight: z.number().default(1),
    density: z.number().min(0).max(1).default(1),
  }),
  compile(tensor, kernels) {
    const eps = numberParameter(tensor.parameters, "eps");
    const densities = tensor.inputs
      .filter(({ isBase }) => !isBase)
      .map(({ parameters }) => numberParameter(parameters, "density"));
    return compileTaskMatrices(tensor, kernels, (tasks, target) => tie(tasks, target, eps, densities), "scale");
  },
} satisfies MergeMethod);

function tie(tasks: TaskMatrices, target: Matrix, eps: number, densities: readonly number[]): void {
  const { rows, columns, count } = tasks;
  tasks.scoped((allocate) => {
    const sideBySide = allocateMatrix(allocate, rows, count * columns);
    for (let task = 0; task < count; task++) {
      tasks.read(task, target);
      for (let row = 0; row < rows; row++) {
        sideBySide.values.set(rowOf(target, row), row * count * columns + task * columns);
      }
    }
    const { left, values, right } = alignTasks(sideBySide, eps, allocate);
    for (let i = 0; i < right.rows; i++) {
      const row = rowOf(right, i);
      for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) * (values[i] ?? 0);
    }
    const scratch = allocate(Math.min(rows, count * columns) * columns).subarray(0, right.rows * columns);
    for (let task = 0; task < count; task++) keepLargest(right, task * columns, columns, densities[task] ?? 1, scratch);
    const merged = allocateMatrix(allocate, Math.min(rows, count * columns), columns);
    const own = { rows: right.rows, columns, values: merged.values.subarray(0, right.rows * columns) };
    elect(own, right, count);
    outerProducts(target, left, own, allocate);
  });
}

/** Zeros all but the floor(density N) elements of largest magnitude of some columns; of equal ones the first stay. */
function keepLargest(matrix: Matrix, first: number, columns: number, density: number, magnitudes: Float64Array): void {
  const kept = Math.floor(density * magnitudes.length);
  if (kept >= magnitudes.length) return;
  for (let row = 0; row < matrix.rows; row++) {
    const own = rowOf(matrix, row).subarray(first, first + columns);
    for (let j = 0; j < columns; j++) magnitudes[row * columns + j] = Math.abs(own[j] ?? 0);
  }
  magnitudes.sort();
  const cut = kept === 0 ? Number.POSITIVE_INFINITY : (magnitudes[magnitudes.length - kept] ?? 0);
  let equals = kept;
  for (let i = magnitudes.length - 1; i >= 0 && (magnitudes[i] ?? 0) > cut; i--) equals--;
  for (let row = 0; row < matrix.rows; row++) {
    const own = rowOf(matrix, row).subarray(first, first + columns);
    for (let j = 0; j < columns; j++) {
      const size = Math.abs(own[j] ?? 0);
      if (size > cut || (size === cut && equals-- > 0)) continue;
      own[j] = 0;
    }
  }
}

/** target = the mean, over tasks, of the elements whose sign is that of the sum. */
function elect(target: Matrix, coordinates: Matrix, count: number): void {
  for (let row = 0; row < target.rows; row++) {
    const own = rowOf(coordinates, row);
    for (let j = 0; j < target.columns; j++) {
      let total = 0;
      for (let task = 0; task < count; task++) total += own[task * target.columns + j] ?? 0;
      let [sum, agreeing] = [0, 0];
      for (let task = 0; task < count; task++) {
        const value = own[task * target.columns + j] ?? 0;
        if (value === 0 || value > 0 !== total >= 0) continue;
        sum += value;
        agreeing++;
      }
      target.values[row * target.columns + j] = sum / Math.max(agreeing, 1);
    }
  }
}
