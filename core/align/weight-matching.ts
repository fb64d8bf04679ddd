// Weight matching: permutations of one model's units that bring it nearest to another, a linear assignment for each
// permutation, again and again until none gains. Called by the step that aligns models.
// Source: Ainsworth et al., Git Re-Basin, arXiv:2209.04836, algorithm 1; merge reference section 10.
import assert from "node:assert/strict";
import { assignRows } from "../ops/linalg/assignment.ts";
import { allocateMatrix, dotDoubles, type Matrix, onHeap, rowOf } from "../ops/linalg/matrix.ts";
import { streamKey, uniformAt } from "../random.ts";
import type { PermutationSpec } from "./permutation-spec.ts";

/** Values of a tensor and its shape. */
export type Values = { readonly shape: readonly number[]; readonly values: ArrayLike<number> };

/** Reads a tensor of the model that stays, and of the one that is permuted. */
export type ReadPair = (name: string) => Promise<readonly [a: Values, b: Values]>;

/** By permutation: unit i of the result is unit `p[i]` of the model. */
export type Permutations = ReadonlyMap<string, Int32Array>;

export type MatchOptions = {
  readonly maxIterations: number;
  readonly seed: number;
  /** Orders of visits, iteration by iteration; drawn from the seed unless given. */
  readonly visits?: readonly (readonly number[])[] | undefined;
};

/** A round that gains no more than this has converged. Source: git-re-basin. */
const PROGRESS = 1e-12;

/** Where a permutation acts. */
type Axis = { readonly tensor: string; readonly axis: number };

/**
 * Permutations of model b that bring it nearest to model a. `sizes` has the length of each. Products in float64; one
 * tensor of each model and a square matrix of the largest size are in memory.
 */
export async function matchWeights(
  spec: PermutationSpec,
  sizes: ReadonlyMap<string, number>,
  read: ReadPair,
  options: MatchOptions,
): Promise<{ readonly permutations: Permutations; readonly iterations: number }> {
  const permutations = new Map<string, Int32Array>(
    [...sizes].map(([name, size]) => [name, Int32Array.from({ length: size }, (_, i) => i)]),
  );
  const names = [...sizes.keys()];
  let iterations = 0;
  for (let progress = true; progress && iterations < options.maxIterations; iterations++) {
    progress = false;
    for (const index of visitOrder(names.length, iterations, options)) {
      const name = names[index];
      assert.ok(name !== undefined, "a visit to a permutation that there is");
      const score = await scoreUnits(name, spec, permutations, read);
      const old = permutations.get(name) ?? new Int32Array(0);
      const found = assignRows(score);
      permutations.set(name, found);
      progress ||= total(score, found) > total(score, old) + PROGRESS;
    }
  }
  return { permutations, iterations };
}

/** Each permutation once, in an order that the seed and the iteration decide. */
function visitOrder(count: number, iteration: number, { seed, visits }: MatchOptions): readonly number[] {
  const given = visits?.[iteration];
  if (given !== undefined) return given;
  const key = streamKey(seed, "weight matching", String(iteration));
  const drawn = Array.from({ length: count }, (_, index) => ({ index, at: uniformAt(key, index) }));
  return drawn.sort((a, b) => a.at - b.at || a.index - b.index).map(({ index }) => index);
}

function total({ values, columns }: Matrix, permutation: Int32Array): number {
  return permutation.reduce((sum, column, row) => sum + (values[row * columns + column] ?? 0), 0);
}

/** A[i, j]: how alike unit i of a is to unit j of b, whose other axes are permuted as they are now. */
async function scoreUnits(
  name: string,
  spec: PermutationSpec,
  permutations: Permutations,
  read: ReadPair,
): Promise<Matrix> {
  const size = permutations.get(name)?.length ?? 0;
  const score = allocateMatrix(onHeap, size, size);
  for (const { tensor, axis } of axesOf(name, spec)) {
    const [a, b] = await read(tensor);
    const others = (spec.get(tensor) ?? []).map((own, at) =>
      own === null || at === axis ? undefined : permutations.get(own),
    );
    const [left, right] = [unitsAlong(a, axis, []), unitsAlong(b, axis, others)];
    for (let i = 0; i < size; i++) {
      const row = rowOf(left, i);
      const target = rowOf(score, i);
      for (let j = 0; j < size; j++) target[j] = (target[j] ?? 0) + dotDoubles(row, rowOf(right, j));
    }
  }
  return score;
}

function axesOf(name: string, spec: PermutationSpec): readonly Axis[] {
  return [...spec].flatMap(([tensor, axes]) => axes.flatMap((own, axis) => (own === name ? [{ tensor, axis }] : [])));
}

/** The tensor with `axis` first and the others, permuted, behind it: a row for each unit. */
function unitsAlong({ shape, values }: Values, axis: number, permuted: readonly (Int32Array | undefined)[]): Matrix {
  const rows = shape[axis] ?? 1;
  const matrix = allocateMatrix(onHeap, rows, values.length / Math.max(1, rows));
  const offsets = elementOffsets(
    shape.map((length, at) => (at === axis ? 1 : length)),
    shape,
    permuted,
  );
  const stride = strideOf(shape, axis);
  for (let row = 0; row < rows; row++) {
    const target = rowOf(matrix, row);
    for (let i = 0; i < target.length; i++) target[i] = values[row * stride + (offsets[i] ?? 0)] ?? 0;
  }
  return matrix;
}

function strideOf(shape: readonly number[], axis: number): number {
  return shape.slice(axis + 1).reduce((product, length) => product * length, 1);
}

/** Flat index in a tensor of `shape` of every element of a part of it, row by row, with some axes permuted. */
export function elementOffsets(
  part: readonly number[],
  shape: readonly number[],
  permuted: readonly (Int32Array | undefined)[],
): Float64Array {
  let offsets = Float64Array.of(0);
  part.forEach((length, axis) => {
    const stride = strideOf(shape, axis);
    const permutation = permuted[axis];
    const next = new Float64Array(offsets.length * length);
    offsets.forEach((offset, at) => {
      for (let i = 0; i < length; i++) next[at * length + i] = offset + (permutation?.[i] ?? i) * stride;
    });
    offsets = next;
  });
  return offsets;
}
