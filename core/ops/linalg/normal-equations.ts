// Least squares over a set of vectors that grows by one at a time, in float64: the normal equations G w = p, where G
// are the vectors' inner products with each other and p those with the target, kept as Cholesky's factor of G.
// Orthogonal matching pursuit adds a vector in every step. Called by engine/pursue-rows.ts.
// Source: Rubinstein, Zibulevsky and Elad, Efficient Implementation of the K-SVD Algorithm using Batch Orthogonal
// Matching Pursuit, Technion CS-2008-08, algorithm 1 (progressive Cholesky).

/** A vector of whose square less than this is left beside the others adds no direction that float32 values tell. */
const PIVOT_FLOOR = 2 ** -40;

/** Equations of `count` vectors, at most as many as there is room for. */
export type NormalEquations = {
  count: number;
  /** L of L L^T = G, rows of 1, 2, 3, ... values. */
  readonly factor: Float64Array;
  /** L^-1 p. */
  readonly reduced: Float64Array;
};

/** Values of a factor of `size` vectors. */
export function factorLength(size: number): number {
  return (size * (size + 1)) / 2;
}

/** Equations without a vector, with room for `size`. */
export function createNormalEquations(size: number): NormalEquations {
  return { count: 0, factor: new Float64Array(factorLength(size)), reduced: new Float64Array(size) };
}

/**
 * Adds a vector: `products` are its inner products with those before it, in order, and with itself; `aim` that with the
 * target. False, and nothing is added, for a vector that depends on those before it.
 */
export function addVector(equations: NormalEquations, products: Float64Array, aim: number): boolean {
  const { count, factor, reduced } = equations;
  const own = factorLength(count);
  const square = products[count] ?? 0;
  let [pivot, rest] = [square, aim];
  for (let i = 0; i < count; i++) {
    const row = factorLength(i);
    let value = products[i] ?? 0;
    for (let j = 0; j < i; j++) value -= (factor[own + j] ?? 0) * (factor[row + j] ?? 0);
    value /= factor[row + i] ?? 0;
    factor[own + i] = value;
    pivot -= value * value;
    rest -= value * (reduced[i] ?? 0);
  }
  if (!(pivot > PIVOT_FLOOR * square)) return false;
  const diagonal = Math.sqrt(pivot);
  factor[own + count] = diagonal;
  reduced[count] = rest / diagonal;
  equations.count = count + 1;
  return true;
}

/** The vectors' weights: target[i] = w_i, for as many as there are. */
export function solveNormalEquations({ count, factor, reduced }: NormalEquations, target: Float64Array): void {
  for (let i = count - 1; i >= 0; i--) {
    let value = reduced[i] ?? 0;
    for (let j = i + 1; j < count; j++) value -= (factor[factorLength(j) + i] ?? 0) * (target[j] ?? 0);
    target[i] = value / (factor[factorLength(i) + i] ?? 0);
  }
}
