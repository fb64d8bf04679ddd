// GPTQ and SparseGPT: columns are rounded or dropped one after the other, and the rest of each row makes good what that
// did to the layer's output, as its inputs' second moments tell. Rows are independent of each other.
// Source: GPTQ, arXiv:2210.17323; SparseGPT, arXiv:2301.00774; quantization reference sections 5 and 13.
import assert from "node:assert/strict";

/** What is known of a layer's inputs: the sum of x x^T, [size, size]; any positive factor of it does as well. */
export type Hessian = { readonly size: number; readonly values: Float32Array };

/** U with U^T U = H^-1, upper triangular, of the Hessian in the order of `order`; dead inputs have no weight. */
export type HessianFactor = {
  readonly size: number;
  readonly upper: Float64Array;
  /** Column that comes at each place. */
  readonly order: Uint32Array;
  /** 1 for inputs that were always zero. */
  readonly dead: Uint8Array;
};

/** Share of the mean diagonal that is added to it. */
const DAMPING = 0.01;
/** How often the damping is raised tenfold before a Hessian is given up. */
const DAMPING_RAISES = 6;

/**
 * Factors a Hessian; with `byActivation`, the columns with the largest diagonal come first. Undefined when it is not
 * positive definite even with much damping.
 */
export function factorHessian(hessian: Hessian, byActivation: boolean): HessianFactor | undefined {
  const { size, values } = hessian;
  assert.equal(values.length, size * size, "a Hessian is square");
  const diagonal = Float64Array.from({ length: size }, (_, i) => values[i * size + i] ?? 0);
  const dead = Uint8Array.from(diagonal, (value) => (value === 0 ? 1 : 0));
  const order = Uint32Array.from({ length: size }, (_, i) => i);
  const filled = diagonal.map((value) => (value === 0 ? 1 : value));
  if (byActivation) order.sort((a, b) => (filled[b] ?? 0) - (filled[a] ?? 0) || a - b);
  const mean = filled.reduce((sum, value) => sum + value, 0) / size;
  for (let raise = 0; raise <= DAMPING_RAISES; raise++) {
    const damping = DAMPING * 10 ** raise * mean;
    const damped = new Float64Array(size * size);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        const [from, to] = [order[i] ?? 0, order[j] ?? 0];
        damped[i * size + j] = i === j ? (filled[from] ?? 0) + damping : (values[from * size + to] ?? 0);
      }
    }
    const upper = inverseRoot(damped, size);
    if (upper !== undefined) return { size, upper, order, dead };
  }
  return undefined;
}

/** H = R R^T with R upper triangular, from the last row up; then U = R^-1 is upper and U^T U = H^-1. */
function inverseRoot(h: Float64Array, size: number): Float64Array | undefined {
  for (let j = size - 1; j >= 0; j--) {
    let pivot = h[j * size + j] ?? 0;
    for (let k = j + 1; k < size; k++) pivot -= (h[j * size + k] ?? 0) ** 2;
    if (!(pivot > 0)) return undefined;
    const root = Math.sqrt(pivot);
    h[j * size + j] = root;
    for (let i = 0; i < j; i++) {
      let sum = h[i * size + j] ?? 0;
      for (let k = j + 1; k < size; k++) sum -= (h[i * size + k] ?? 0) * (h[j * size + k] ?? 0);
      h[i * size + j] = sum / root;
    }
  }
  return invertUpper(h, size);
}

function invertUpper(r: Float64Array, size: number): Float64Array {
  const inverse = new Float64Array(size * size);
  for (let j = size - 1; j >= 0; j--) {
    inverse[j * size + j] = 1 / (r[j * size + j] ?? 1);
    for (let i = j - 1; i >= 0; i--) {
      let sum = 0;
      for (let k = i + 1; k <= j; k++) sum += (r[i * size + k] ?? 0) * (inverse[k * size + j] ?? 0);
      inverse[i * size + j] = -sum / (r[i * size + i] ?? 1);
    }
  }
  return inverse;
}

/**
 * What a solver does at a place of a row: `work` is the row in the order of the factor, its places before `place` done.
 * Returns the value that stands for the one there.
 */
export type RoundColumn = (work: Float64Array, place: number) => number;

/**
 * One row: every column through `round`, its error passed on to those after it. `row` becomes the values that stand for
 * it, in its own order.
 */
export function solveRow({ size, upper, order, dead }: HessianFactor, row: Float32Array, round: RoundColumn): void {
  const work = Float64Array.from(order, (column) => (dead[column] === 1 ? 0 : (row[column] ?? 0)));
  for (let place = 0; place < size; place++) {
    const value = round(work, place);
    row[order[place] ?? 0] = value;
    const error = ((work[place] ?? 0) - value) / (upper[place * size + place] ?? 1);
    if (error === 0) continue;
    for (let later = place + 1; later < size; later++) {
      work[later] = (work[later] ?? 0) - error * (upper[place * size + later] ?? 0);
    }
  }
}

/** Of every four columns the two that matter least, by w^2 / U_ii^2, become zero. Columns keep their own order. */
export function sparsify24(factor: HessianFactor, row: Float32Array): void {
  const { size, upper } = factor;
  assert.ok(size % 4 === 0, "a row holds whole fours");
  const dropped = new Uint8Array(size);
  solveRow(factor, row, (work, place) => {
    if (place % 4 === 0) {
      const scores = [0, 1, 2, 3].map((i) => ((work[place + i] ?? 0) / (upper[(place + i) * (size + 1)] ?? 1)) ** 2);
      const least = [0, 1, 2, 3].sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || b - a);
      for (const i of least.slice(0, 2)) dropped[place + i] = 1;
    }
    return dropped[place] === 1 ? 0 : (work[place] ?? 0);
  });
}
