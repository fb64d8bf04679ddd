// Linear combinations straight from stored values: what most methods' apply pass is, fused so that inputs are read once
// and never written widened. The meaning here is the unfused sequence of operations; the result is the same, bit for
// bit.
import { type Arithmetic, scalarArithmetic } from "./arithmetic.ts";
import { type Cast, scalarCast } from "./cast.ts";
import type { Block, Tile } from "./memory.ts";

/** Models that one combination may have; more is no kernel's business (the engine then uses single operations). */
export const COMBINE_SOURCES_MAX = 64;

/** Stored dtypes with a fused form; others (and mixtures) go through single operations. */
export const COMBINE_DTYPES = ["F32", "F16", "BF16"] as const;
export type CombineDtype = (typeof COMBINE_DTYPES)[number];

/** True when values of this dtype can be combined without being widened first. */
export function isCombineDtype(dtype: string): dtype is CombineDtype {
  return COMBINE_DTYPES.some((known) => known === dtype);
}

export type Combination = {
  /** One per source, in order; rounded to float32. */
  readonly factors: readonly number[];
  /** Divides the sum; 1 leaves it. */
  readonly divisor: number;
  /** Multiplies the (divided) sum; 1 leaves it. Used with a base only. */
  readonly multiplier: number;
};

export type Combine = {
  /**
   * target[i] = (((0 + s0[i] f0) + s1[i] f1) + ...) / divisor, over values of one dtype at the same byte offset.
   * With a base b, the task-vector form: target[i] = b[i] + (((0 + (s0[i] - b[i]) f0) + ...) / divisor) multiplier.
   * Every difference, product, sum and quotient rounds once to float32.
   */
  combine(
    dtype: CombineDtype,
    base: Block | undefined,
    sources: readonly Block[],
    byteOffset: number,
    combination: Combination,
    target: Tile,
    count: number,
  ): void;
  /**
   * The same from the start of every block, narrowed to the sources' dtype as `narrow` does; returns what it returns.
   * `target` has room for `count` rounded up to 16.
   */
  combineStored(
    dtype: CombineDtype,
    base: Block | undefined,
    sources: readonly Block[],
    combination: Combination,
    target: Block,
    count: number,
  ): number;
};

const scalar: Cast & Arithmetic = { ...scalarCast, ...scalarArithmetic };

export const scalarCombine: Combine = Object.freeze({
  combine: combineScalar,
  combineStored(dtype, base, sources, combination, target, count) {
    const result = scratchTile(count);
    combineScalar(dtype, base, sources, 0, combination, result, count);
    return scalar.narrow(dtype, result, target, 0, count);
  },
} satisfies Combine);

function combineScalar(...args: Parameters<Combine["combine"]>): void {
  const [dtype, base, sources, byteOffset, { factors, divisor, multiplier }, target, count] = args;
  const source = scratchTile(count);
  const origin = scratchTile(count);
  if (base !== undefined) scalar.widen(dtype, base, byteOffset, origin, count);
  scalar.fill(target, 0, count);
  sources.forEach((block, index) => {
    scalar.widen(dtype, block, byteOffset, source, count);
    if (base === undefined) scalar.addScaled(target, source, factors[index] ?? 0, count);
    else scalar.addScaledDifference(target, source, origin, factors[index] ?? 0, count);
  });
  if (divisor !== 1) scalar.divide(target, target, divisor, count);
  if (base === undefined) return;
  if (multiplier !== 1) scalar.scale(target, target, multiplier, count);
  scalar.add(target, origin, target, count);
}

function scratchTile(count: number): Tile {
  return { address: 0, values: new Float32Array(count) };
}
