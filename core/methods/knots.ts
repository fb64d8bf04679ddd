import * as z from "zod";
import type { Deltas } from "../ops/deltas.ts";
import type { Kernels } from "../ops/kernels.ts";
import { type Allocate, allocateMatrix, doublesBytes, type Matrix, rowOf } from "../ops/linalg/matrix.ts";
import { outerProducts, outerProductsBytes } from "../ops/linalg/orthogonal.ts";
import { type Svd, svdBytes } from "../ops/linalg/svd.ts";
import { allocatedBytes } from "../ops/memory.ts";
import { type CountList, countModels, magnitudeOf, searchRounds } from "./frames/model-cuts.ts";
import {
  compileTaskMatrices,
  type MatrixSizes,
  type TaskMatrices,
  taskMatrixBytes,
  taskMatrixPass,
} from "./frames/task-matrices.ts";
import { alignTasks } from "./frames/task-space.ts";
import { blockOf } from "./frames/tiles.ts";
import {
  type MergeMethod,
  type MergeTensor,
  type ModelExtent,
  type ModelState,
  numberParameter,
  type Round,
  type RoundTensor,
  stateList,
} from "./method.ts";

/**
 * KnOTS with TIES: the D_i side by side have one decomposition U S V^T, which gives every task coordinates
 * T_i = S V_i^T in the shared basis U. Of the T_i of all tensors together the floor(density N) + 1 largest elements are
 * kept, and all that equal the smallest of them as float32, none at a density of 0; signs are elected by their sum, a
 * sum of 0 being positive, and R = W0 + scale U M, M the mean of the kept elements that agree. Singular values up to
 * `eps` are left out. Tensors that are not 2-D take the mean of the D_i.
 * Each decomposition is one of [rows, n columns], in float64, held whole: `svd` states the time. Where a density is
 * below 1 it is made three times, twice to find the threshold of the whole model.
 * Source: Stoica et al., arXiv:2410.19735, and its code (gstoica27/KnOTS), which keeps one more too; merge reference
 * section 13.
 */
export const knots = Object.freeze({
  id: "knots",
  title: "KnOTS with TIES",
  source: "Model merging with SVD to tie the Knots, arXiv:2410.19735",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "tensor",
  reducePasses: 0,
  scratchBytes: (tensor) => taskMatrixBytes(tensor, alignedBytes),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({ scale: z.number().default(1), eps: z.number().nonnegative().default(1e-5) }),
  modelParameters: z.strictObject({
    weight: z.number().default(1),
    density: z.number().min(0).max(1).default(1),
  }),
  wholeModel: {
    shared: ["density", "eps", "weight"],
    rounds: (tensor) => (densitiesOf(tensor).some((density) => density < 1) ? SEARCH : []),
  },
  compile(tensor, kernels) {
    const eps = numberParameter(tensor.parameters, "eps");
    const least = leastKept(tensor);
    return compileTaskMatrices(tensor, kernels, (tasks, target) => tie(tasks, target, eps, least), "scale");
  },
} satisfies MergeMethod);

function densitiesOf({ inputs }: RoundTensor): readonly number[] {
  return inputs.filter(({ isBase }) => !isBase).map(({ parameters }) => numberParameter(parameters, "density"));
}

/** Of every task, the least magnitude that is kept. */
function leastKept(tensor: MergeTensor): readonly number[] {
  const densities = densitiesOf(tensor);
  if (densities.every((density) => density >= 1)) return densities.map(() => 0);
  const [keys, total] = [stateList(tensor.state, "magnitudes"), coordinatesOf(tensor.state)];
  return densities.map((density, task) =>
    density === 0 || total === 0 ? Number.POSITIVE_INFINITY : magnitudeOf(keys[task] ?? 0),
  );
}

/** Elements of one task's coordinates in all tensors; singular values decide how many there are. */
function coordinatesOf(state: ModelState | undefined): number {
  return stateList(state, "coordinates")[0] ?? 0;
}

function ranksOf(model: ModelExtent, state: ModelState): readonly number[] {
  const total = coordinatesOf(state);
  return densitiesOf(model).map((density) => Math.min(total, 1 + Math.floor(density * total)));
}

/** The threshold of every task over the coordinates of all tensors. */
const SEARCH: readonly Round[] = searchRounds({
  name: "magnitudes",
  lists: countModels,
  ranksPerList: 1,
  ranks: ranksOf,
  also: {
    totals: () => ({ coordinates: { kind: "count", length: 1 } }),
    decide: ({ coordinates }) => ({ coordinates: [...(coordinates ?? [])] }),
  },
  scratchBytes: (tensor) =>
    taskMatrixBytes(tensor, alignedBytes) + 2 * allocatedBytes(4 * Math.max(1, tensor.shape[1] ?? 1)),
  measure(tensor, kernels, count) {
    const eps = numberParameter(tensor.parameters, "eps");
    let coordinates = 0;
    const row = rowOfNumbers(tensor, kernels);
    const pass = taskMatrixPass(tensor, kernels, (tasks) => {
      coordinates += countCoordinates(tasks, eps, row, count);
    });
    return { pass, totals: () => ({ coordinates: Float64Array.of(coordinates) }) };
  },
});

/** A row of float32 numbers beside one of zeros, whose differences are the numbers. */
function rowOfNumbers({ shape }: MergeTensor, kernels: Kernels) {
  const columns = Math.max(1, shape[1] ?? 1);
  const [numbers, zeros] = [kernels.allocateTile(columns), kernels.allocateTile(columns)];
  zeros.values.fill(0);
  const deltas: Deltas = { dtype: "F32", base: blockOf(zeros), source: blockOf(numbers), byteOffset: 0 };
  return { numbers, deltas };
}

/** Counts every task's coordinates by magnitude; returns how many one task has. */
function countCoordinates(
  tasks: TaskMatrices,
  eps: number,
  { numbers, deltas }: ReturnType<typeof rowOfNumbers>,
  countList: CountList,
): number {
  const { rows, columns, count } = tasks;
  return tasks.scoped((allocate) => {
    const { right } = align(tasks, allocateMatrix(allocate, rows, columns), eps, allocate);
    for (let task = 0; task < count; task++) {
      for (let i = 0; i < right.rows; i++) {
        numbers.values.set(rowOf(right, i).subarray(task * columns, (task + 1) * columns));
        countList(task, deltas, columns);
      }
    }
    return right.rows * columns;
  });
}

/** U, and T_1 ... T_n side by side as `right`. `scratch` has the sides of a task. */
function align(tasks: TaskMatrices, scratch: Matrix, eps: number, allocate: Allocate): Svd {
  const { rows, columns, count } = tasks;
  const sideBySide = allocateMatrix(allocate, rows, count * columns);
  for (let task = 0; task < count; task++) {
    tasks.read(task, scratch);
    for (let row = 0; row < rows; row++) {
      sideBySide.values.set(rowOf(scratch, row), row * count * columns + task * columns);
    }
  }
  const aligned = alignTasks(sideBySide, eps, allocate);
  for (let i = 0; i < aligned.right.rows; i++) {
    const row = rowOf(aligned.right, i);
    for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) * (aligned.values[i] ?? 0);
  }
  return aligned;
}

/** What `align` and `tie` take beside the target. */
function alignedBytes({ rows, columns, tasks }: MatrixSizes): number {
  const kept = Math.min(rows, tasks * columns);
  const coordinates = doublesBytes(tasks * rows * columns) + doublesBytes(kept * columns);
  return coordinates + svdBytes(rows, tasks * columns) + outerProductsBytes(kept);
}

function tie(tasks: TaskMatrices, target: Matrix, eps: number, least: readonly number[]): void {
  const { rows, columns, count } = tasks;
  tasks.scoped((allocate) => {
    const { left, right } = align(tasks, target, eps, allocate);
    for (let task = 0; task < count; task++) dropSmall(right, task * columns, columns, least[task] ?? 0);
    const merged = allocateMatrix(allocate, Math.min(rows, count * columns), columns);
    const own = { rows: right.rows, columns, values: merged.values.subarray(0, right.rows * columns) };
    elect(own, right, count);
    outerProducts(target, left, own, allocate);
  });
}

/** Zeros what is below `least` as float32, in some columns. */
function dropSmall(matrix: Matrix, first: number, columns: number, least: number): void {
  for (let row = 0; row < matrix.rows; row++) {
    const own = rowOf(matrix, row).subarray(first, first + columns);
    for (let j = 0; j < columns; j++) if (Math.abs(Math.fround(own[j] ?? 0)) < least) own[j] = 0;
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
