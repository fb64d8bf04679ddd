// How far two rows are apart as distributions: a score of a row, in float64 with the same bits everywhere.
import { exponential, logarithm } from "./exponential.ts";

/** Added to every probability. Source: merge reference section 4.14 step 1. */
export const PROBABILITY_FLOOR = 1e-8;

/** Room for the exponentials of the two rows. */
export type DivergenceScratch = { readonly p: Float64Array; readonly q: Float64Array };

/**
 * KL = sum_i P_i ln(P_i / Q_i) with P = softmax(b) + 1e-8, Q = softmax(a) + 1e-8, both of the same length and floored;
 * exactly 0 for equal rows, never below 0, NaN where a value is not a number or +infinity.
 * Order and rounding: float64, sums in index order.
 */
export function rowDivergence(b: Float32Array, a: Float32Array, { p, q }: DivergenceScratch): number {
  softmax(b, p);
  softmax(a, q);
  let sum = 0;
  for (let i = 0; i < b.length; i++) {
    const [own, other] = [(p[i] ?? 0) + PROBABILITY_FLOOR, (q[i] ?? 0) + PROBABILITY_FLOOR];
    sum += own * logarithm(own / other);
  }
  return Math.max(sum, 0);
}

/** target[i] = e^(values[i] - m) / sum of these, m the largest value; float64, summed in index order. */
export function softmax(values: Float32Array, target: Float64Array): void {
  let largest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, values[i] ?? 0);
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    const value = exponential((values[i] ?? 0) - largest);
    target[i] = value;
    sum += value;
  }
  for (let i = 0; i < values.length; i++) target[i] = (target[i] ?? 0) / sum;
}
