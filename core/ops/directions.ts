// Vectors as 16-bit integers and one factor each, and how far the inner product of two such vectors may be from that of
// the vectors themselves. A product of integers that stays below what is sought by more than that need not be computed
// exactly: nearly none is. Called by the engine's searches over rows.
import type { IntegerProduct } from "./integer-product.ts";

/**
 * Norm of the integers of a vector: two of them have a product below 2^30, and so has each sum on the way
 * (Cauchy-Schwarz), so int32 holds it; each value is within int16.
 */
const INTEGER_NORM = 32_000;

/** Norms below this are no direction: their factor would not be a float32. */
const NORM_MIN = 1e-30;

/** For each vector: v is about `scale` times its integers, and `error` is the norm of the difference. */
export type Directions = {
  readonly norms: Float64Array;
  readonly scales: Float64Array;
  readonly errors: Float64Array;
};

export function createDirections(count: number): Directions {
  return { norms: new Float64Array(count), scales: new Float64Array(count), errors: new Float64Array(count) };
}

/** What integers are made with: 1 / scale as float32, 0 for a vector without direction. */
export function integerFactor(norm: number): number {
  return norm < NORM_MIN ? 0 : Math.fround(INTEGER_NORM / norm);
}

/**
 * Fills `integers`, which is as long as `vector` and in the kernels' memory as that is, and entry `index` of
 * `directions`.
 */
export function describeDirection(
  { norms, scales, errors }: Directions,
  index: number,
  vector: Float32Array,
  integers: Int16Array,
  kernels: IntegerProduct,
): void {
  const norm = Math.sqrt(innerProduct(vector, vector));
  const factor = integerFactor(norm);
  const scale = factor === 0 ? 0 : 1 / factor;
  kernels.roundToIntegers(integers, vector, factor);
  let sum = 0;
  for (let i = 0; i < vector.length; i++) sum += ((vector[i] ?? 0) - scale * (integers[i] ?? 0)) ** 2;
  norms[index] = norm;
  scales[index] = scale;
  errors[index] = Math.sqrt(sum);
}

/** Sum of a[i] b[i] in float64: element i goes to partial sum i mod 4 in order, what is left over to the first. */
export function innerProduct(a: Float32Array, b: Float32Array): number {
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  const whole = a.length - (a.length % 4);
  for (let i = 0; i < whole; i += 4) {
    s0 += (a[i] ?? 0) * (b[i] ?? 0);
    s1 += (a[i + 1] ?? 0) * (b[i + 1] ?? 0);
    s2 += (a[i + 2] ?? 0) * (b[i + 2] ?? 0);
    s3 += (a[i + 3] ?? 0) * (b[i + 3] ?? 0);
  }
  for (let i = whole; i < a.length; i++) s0 += (a[i] ?? 0) * (b[i] ?? 0);
  return s0 + s1 + (s2 + s3);
}
