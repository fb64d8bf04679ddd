// The frame of methods that take a matrix apart: task vectors of 2-D tensors as matrices in float64, and what the
// method makes of them added to the base. Tensors of another shape take the mean of their task vectors.
// Source: fusion_bench at 54c9e8c9 (iso_c, iso_cts, tsv_m, wudi), merge reference section 13.
import assert from "node:assert/strict";
import * as z from "zod";
import type { Kernels } from "../../ops/kernels.ts";
import { type Allocate, allocateMatrix, doublesBytes, inMemory, type Matrix } from "../../ops/linalg/matrix.ts";
import { elementCount, type Shape } from "../../tensor.ts";
import {
  type MergeTensor,
  numberParameter,
  numbersOf,
  type Pass,
  type ScratchTensor,
  type TensorProgram,
  type TileView,
} from "../method.ts";
import { type BaseSplit, splitBase, splitTiles } from "./base-tiles.ts";

/** Parameters that each model may have: its task vector is multiplied by `weight` first. */
export const TASK_MATRIX_MODEL_PARAMETERS = z.strictObject({ weight: z.number().default(1) });

/** The weighted task vectors of one 2-D tensor. */
export type TaskMatrices = {
  readonly count: number;
  readonly rows: number;
  readonly columns: number;
  /** target = w_i fl32(W_i - W0). */
  read(index: number, target: Matrix): void;
  /** target = the sum of all, in model order. */
  sum(target: Matrix): void;
  /** Memory that is given back when `work` returns. */
  scoped<T>(work: (allocate: Allocate) => T): T;
};

/** Overwrites `target` with what is to be added to the base. */
export type MergeMatrices = (tasks: TaskMatrices, target: Matrix) => void;

/** Sides and number of tasks, for a method's scratch. */
export type MatrixSizes = { readonly rows: number; readonly columns: number; readonly tasks: number };

/** Scratch of `compileTaskMatrices`: its own, and the method's `bytes` where the tensor is a matrix. */
export function taskMatrixBytes({ shape, inputs }: ScratchTensor, bytes: (sizes: MatrixSizes) => number): number {
  const [rows = 0, columns = 0] = shape;
  const own = doublesBytes(elementCount(shape));
  return isMatrix(shape) ? own + bytes({ rows, columns, tasks: inputs.length - 1 }) : own;
}

/**
 * R = W0 + fl32(scale M), M = `merge` of the matrices, or the mean of the task vectors, which is not scaled. A value
 * that is not finite makes the whole tensor NaN.
 */
export function compileTaskMatrices(
  tensor: MergeTensor,
  kernels: Kernels,
  merge: MergeMatrices,
  scaleName: string,
): TensorProgram {
  const split = splitBase(tensor);
  const scale = numberParameter(tensor.parameters, scaleName);
  const [rows = 0, columns = 0] = tensor.shape;
  const weights = numbersOf(tensor, split.others, "weight");
  const size = Math.max(1, elementCount(tensor.shape));
  return {
    reduce: [],
    apply: {
      tile(view) {
        const matrix = isMatrix(tensor.shape) ? { rows, columns } : { rows: 1, columns: size };
        const tasks = openTasks(view, split, weights, kernels, matrix);
        tasks.scoped((allocate) => {
          const target = allocateMatrix(allocate, matrix.rows, matrix.columns);
          if (!allFinite(view, split)) target.values.fill(Number.NaN);
          else if (isMatrix(tensor.shape)) merge(tasks, target);
          else meanOf(tasks, target);
          const { base } = splitTiles(view, split);
          const factor = isMatrix(tensor.shape) ? scale : 1;
          for (let i = 0; i < view.count; i++) {
            view.output.values[i] = (base.values[i] ?? 0) + Math.fround(factor * (target.values[i] ?? 0));
          }
        });
      },
    },
  };
}

/** A pass that shows the task matrices, where the tensor is a matrix and all of its values are finite. */
export function taskMatrixPass(tensor: MergeTensor, kernels: Kernels, visit: (tasks: TaskMatrices) => void): Pass {
  const split = splitBase(tensor);
  const [rows = 0, columns = 0] = tensor.shape;
  const weights = numbersOf(tensor, split.others, "weight");
  return {
    tile(view) {
      if (!isMatrix(tensor.shape) || !allFinite(view, split)) return;
      visit(openTasks(view, split, weights, kernels, { rows, columns }));
    },
  };
}

/** target = the mean of the task vectors. */
export function meanOf(tasks: TaskMatrices, target: Matrix): void {
  tasks.sum(target);
  for (let i = 0; i < target.values.length; i++) target.values[i] = (target.values[i] ?? 0) / tasks.count;
}

function isMatrix(shape: Shape): boolean {
  return shape.length === 2 && elementCount(shape) > 0;
}

function openTasks(
  view: TileView,
  split: BaseSplit,
  weights: readonly number[],
  kernels: Kernels,
  { rows, columns }: { readonly rows: number; readonly columns: number },
): TaskMatrices {
  const { base, others } = splitTiles(view, split);
  const allocate = inMemory(kernels);
  const add = (index: number, target: Matrix): void => {
    const [values, weight] = [others[index]?.values, weights[index] ?? 1];
    assert.ok(values !== undefined, "a task of the tensor");
    for (let i = 0; i < view.count; i++) {
      const delta = Math.fround((values[i] ?? 0) - (base.values[i] ?? 0));
      target.values[i] = (target.values[i] ?? 0) + weight * delta;
    }
  };
  return {
    count: others.length,
    rows,
    columns,
    read(index, target) {
      target.values.fill(0);
      add(index, target);
    },
    sum(target) {
      target.values.fill(0);
      others.forEach((_, index) => {
        add(index, target);
      });
    },
    scoped(work) {
      const mark = kernels.mark();
      try {
        return work(allocate);
      } finally {
        kernels.release(mark);
      }
    },
  };
}

function allFinite(view: TileView, split: BaseSplit): boolean {
  const { base, others } = splitTiles(view, split);
  return [base, ...others].every(({ values }) => {
    for (let i = 0; i < view.count; i++) if (!Number.isFinite(values[i])) return false;
    return true;
  });
}
