import * as z from "zod";
import {
  addCombination,
  addScaledDoubles,
  allocateMatrix,
  dotDoubles,
  doublesBytes,
  type Matrix,
  multiply,
  multiplyTransposed,
  rowOf,
} from "../ops/linalg/matrix.ts";
import {
  compileTaskMatrices,
  TASK_MATRIX_MODEL_PARAMETERS,
  type TaskMatrices,
  taskMatrixBytes,
} from "./frames/task-matrices.ts";
import { type MergeMethod, numberParameter } from "./method.ts";

/** Adam's constants. Source: torch.optim.Adam's defaults. */
const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

/**
 * WUDI-Merging: R = W0 + scale M, M the minimum of sum_i |(M - D_i) D_i^T|^2 / |D_i|^2 that `iter_num` steps of Adam
 * reach from sum_i D_i. A task that did not change the tensor asks for nothing. Tensors that are not 2-D take the mean
 * of the D_i.
 * float64. The gradient is 2 (M A - B) with A = sum_i D_i^T D_i / |D_i|^2 and B = sum_i D_i D_i^T D_i / |D_i|^2, so a
 * step is one product of [rows, columns] by [columns, columns]: 300 steps on 4096 x 4096 take hours on one core.
 * Source: Cheng et al., arXiv:2503.08099; fusion_bench `wudi_merging`, merge reference section 13.
 */
export const wudi = Object.freeze({
  id: "wudi",
  title: "WUDI-Merging",
  source: "Whoever Started the Interference Should End It, arXiv:2503.08099",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "tensor",
  reducePasses: 0,
  scratchBytes: (tensor) =>
    taskMatrixBytes(
      tensor,
      ({ rows, columns }) =>
        4 * doublesBytes(rows * columns) + 2 * doublesBytes(columns * columns) + doublesBytes(rows),
    ),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({
    iter_num: z.int().nonnegative().default(300),
    lr: z.number().positive().default(1e-5),
    scale: z.number().default(1),
  }),
  modelParameters: TASK_MATRIX_MODEL_PARAMETERS,
  compile(tensor, kernels) {
    const steps = numberParameter(tensor.parameters, "iter_num");
    const rate = numberParameter(tensor.parameters, "lr");
    return compileTaskMatrices(tensor, kernels, (tasks, target) => descend(tasks, target, steps, rate), "scale");
  },
} satisfies MergeMethod);

function descend(tasks: TaskMatrices, target: Matrix, steps: number, rate: number): void {
  const { rows, columns } = tasks;
  tasks.scoped((allocate) => {
    const products = allocateMatrix(allocate, columns, columns);
    const wanted = allocateMatrix(allocate, rows, columns);
    const gradient = allocateMatrix(allocate, rows, columns);
    const [first, second] = [allocate(rows * columns), allocate(rows * columns)];
    gather(tasks, products, wanted, {
      delta: gradient,
      own: allocateMatrix(allocate, columns, columns),
      column: allocate(rows),
    });
    tasks.sum(target);
    first.fill(0);
    second.fill(0);
    for (let step = 1; step <= steps; step++) {
      multiply(gradient, target, products);
      for (let i = 0; i < gradient.values.length; i++) {
        gradient.values[i] = 2 * ((gradient.values[i] ?? 0) - (wanted.values[i] ?? 0));
      }
      adamStep(target.values, gradient.values, { first, second }, rate, step);
    }
  });
}

/** products = A, wanted = B. */
function gather(
  tasks: TaskMatrices,
  products: Matrix,
  wanted: Matrix,
  { delta, own, column }: { readonly delta: Matrix; readonly own: Matrix; readonly column: Float64Array },
): void {
  products.values.fill(0);
  wanted.values.fill(0);
  for (let task = 0; task < tasks.count; task++) {
    tasks.read(task, delta);
    const square = dotDoubles(delta.values, delta.values);
    if (square === 0) continue;
    multiplyTransposed(own, delta, delta, column);
    for (let i = 0; i < own.values.length; i++) own.values[i] = (own.values[i] ?? 0) / square;
    addScaledDoubles(products.values, own.values, 1);
    for (let row = 0; row < delta.rows; row++) addCombination(rowOf(wanted, row), rowOf(delta, row), own);
  }
}

/** x := x - rate m' / (sqrt(v') + epsilon), m' and v' the moments without their bias to 0. */
function adamStep(
  x: Float64Array,
  gradient: Float64Array,
  { first, second }: { readonly first: Float64Array; readonly second: Float64Array },
  rate: number,
  step: number,
): void {
  const { beta1, beta2, epsilon } = ADAM;
  // Powers by exponent alone, so that no platform's `pow` decides a bit.
  const [bias1, bias2] = [1 - power(beta1, step), Math.sqrt(1 - power(beta2, step))];
  for (let i = 0; i < x.length; i++) {
    const g = gradient[i] ?? 0;
    const m = beta1 * (first[i] ?? 0) + (1 - beta1) * g;
    const v = beta2 * (second[i] ?? 0) + (1 - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    x[i] = (x[i] ?? 0) - ((rate / bias1) * m) / (Math.sqrt(v) / bias2 + epsilon);
  }
}

/** base^exponent, by repeated products. */
function power(base: number, exponent: number): number {
  let result = 1;
  for (let i = 0; i < exponent; i++) result *= base;
  return result;
}
