import assert from "node:assert/strict";
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { factorCholesky, solveCholesky } from "../ops/linalg/cholesky.ts";
import { addProduct, allocateMatrix, doublesBytes, inMemory, type Matrix } from "../ops/linalg/matrix.ts";
import { weightedSum } from "./frames/combinations.ts";
import { splitStatistics } from "./frames/statistics.ts";
import { type MergeMethod, type MergeTensor, numberParameter, type TileView } from "./method.ts";

/** Entries of a Gram matrix that mirror each other may differ by this share of what they can be at most. */
const ASYMMETRY_MAX = 1e-3;

/**
 * RegMean: R^T = (sum_i G_i)^-1 (sum_i G_i W_i^T) for a linear layer W_i [out, in] whose inputs have the Gram
 * matrix G_i = X_i^T X_i / rows, given as `statistics` [in, in]. Entries of G_i off the diagonal are first multiplied
 * by `reduce_non_diagonal_ratio`. `ridge` times the mean of the diagonal is added to the diagonal of the sum. A tensor
 * that no model has a Gram matrix of is the mean.
 * Order and rounding: float64 throughout, sums in model order, Cholesky's decomposition, one rounding to float32.
 * Throws EngineMethodDegenerate when a Gram matrix is not symmetric or their sum is not positive definite.
 * Source: Jin et al., arXiv:2212.09849; fusion_bench `regmean`, merge reference section 7.3.
 */
export const regmean = Object.freeze({
  id: "regmean",
  title: "RegMean (given Gram matrices)",
  source: "Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv:2212.09849",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "tensor",
  reducePasses: 0,
  scratchBytes(tensor) {
    const [rows = 0, columns = 0] = tensor.shape;
    if (splitStatistics(tensor).statistics.length === 0) return 0;
    return 2 * doublesBytes(columns * columns) + 2 * doublesBytes(rows * columns);
  },
  seeded: false,
  embeddingMismatch: "error",
  parameters: z.strictObject({
    reduce_non_diagonal_ratio: z.number().min(0).max(1).default(1),
    ridge: z.number().nonnegative().default(0),
  }),
  modelParameters: z.strictObject({}),
  statistics: {
    title: "Gram matrices of the inputs",
    shapeOf: ([rows, columns, ...more]) =>
      rows === undefined || columns === undefined || more.length > 0 ? undefined : [columns, columns],
    followsRows: false,
  },
  compile(tensor, kernels) {
    const { models, statistics } = splitStatistics(tensor);
    if (statistics.length === 0) {
      const mean = weightedSum(
        models.map(() => 1),
        models.length,
      );
      return { reduce: [], apply: { deltas: false, combination: () => mean } };
    }
    return { reduce: [], apply: { tile: (view) => solveTensor(tensor, view, kernels) } };
  },
} satisfies MergeMethod);

function solveTensor(tensor: MergeTensor, { inputs, output, count }: TileView, kernels: Kernels): void {
  const [rows = 0, columns = 0] = tensor.shape;
  const { models, statistics } = splitStatistics(tensor);
  const allocate = inMemory(kernels);
  const allFinite = statistics.every((place) => inputs[place]?.values.every(Number.isFinite));
  if (!allFinite) {
    output.values.fill(Number.NaN, 0, count);
    return;
  }
  const mark = kernels.mark();
  try {
    const own = allocateMatrix(allocate, columns, columns);
    const sum = allocateMatrix(allocate, columns, columns);
    const target = allocateMatrix(allocate, rows, columns);
    const doubles = allocateMatrix(allocate, rows, columns);
    sum.values.fill(0);
    target.values.fill(0);
    models.forEach((place, index) => {
      const [weights, gram] = [inputs[place], inputs[statistics[index] ?? -1]];
      assert.ok(weights !== undefined && gram !== undefined, "a Gram matrix for every model");
      readGram(tensor, own, gram, tensor.inputs[statistics[index] ?? -1]?.model);
      for (let i = 0; i < sum.values.length; i++) sum.values[i] = (sum.values[i] ?? 0) + (own.values[i] ?? 0);
      for (let i = 0; i < count; i++) doubles.values[i] = weights.values[i] ?? 0;
      addProduct(target, doubles, own, kernels);
    });
    factorSum(tensor, sum, kernels);
    solveCholesky(sum, target, kernels);
    output.values.set(target.values.subarray(0, count));
  } finally {
    kernels.release(mark);
  }
}

/** A Gram matrix with what lies off its diagonal scaled. */
function readGram(tensor: MergeTensor, target: Matrix, { values }: Tile, model: string | undefined): void {
  const { columns } = target;
  const ratio = numberParameter(tensor.parameters, "reduce_non_diagonal_ratio");
  for (let i = 0; i < columns; i++) {
    const diagonal = values[i * columns + i] ?? 0;
    target.values[i * columns + i] = diagonal;
    for (let j = 0; j < i; j++) {
      const [lower, upper] = [values[i * columns + j] ?? 0, values[j * columns + i] ?? 0];
      const largest = Math.sqrt(Math.abs(diagonal * (values[j * columns + j] ?? 0)));
      if (Math.abs(lower - upper) > ASYMMETRY_MAX * largest) throw asymmetric(tensor, model, [i, j], [lower, upper]);
      target.values[i * columns + j] = ratio * lower;
      target.values[j * columns + i] = ratio * upper;
    }
  }
}

function asymmetric(
  { name }: MergeTensor,
  model: string | undefined,
  [i, j]: readonly [number, number],
  [lower, upper]: readonly [number, number],
): MergeyardError {
  return new MergeyardError("EngineMethodDegenerate", {
    where: { model, tensor: name },
    found: `${lower} at [${i}, ${j}] and ${upper} at [${j}, ${i}]`,
    expected: "a Gram matrix, which is symmetric",
  });
}

/** Overwrites the sum of the Gram matrices, with the ridge added, with its factor. */
function factorSum({ name, parameters }: MergeTensor, sum: Matrix, kernels: Kernels): void {
  const { columns, values } = sum;
  let trace = 0;
  for (let i = 0; i < columns; i++) trace += values[i * columns + i] ?? 0;
  const ridge = (numberParameter(parameters, "ridge") * trace) / columns;
  for (let i = 0; i < columns; i++) values[i * columns + i] = (values[i * columns + i] ?? 0) + ridge;
  const failed = factorCholesky(sum, kernels);
  if (failed === undefined) return;
  throw new MergeyardError("EngineMethodDegenerate", {
    where: { tensor: name },
    found: `input ${failed} of ${columns} depends on those before it in all Gram matrices`,
    expected: "a positive definite sum of Gram matrices",
    hint: "write `ridge: 1.0e-6` under `parameters`, a lower `reduce_non_diagonal_ratio`, or measure more rows",
  });
}
