// core/ops/masked.ts: of weighted differences only those of the majority's sign are added. Used by masked.ts, which
// reads and stores.
import { floatOne, sign } from "./constants";
import { TABLE } from "./masked-sources";

/** Weighted differences of one group of sixteen, 64 bytes a source. */
export const GROUP: usize = memory.data(4096);

/** Sign bits of the minority: set where the sum is neither positive nor zero. */
@inline function flips(sum: v128): v128 {
  return v128.andnot(sign(), f32x4.ge(sum, f32x4.splat(0)));
}

/** One where the value has the majority's sign, else zero. */
@inline function vote(value: v128, flip: v128): v128 {
  return v128.and(f32x4.gt(v128.xor(value, flip), f32x4.splat(0)), floatOne());
}

/** 1 divides where the weights that count cancel, or none counts. */
@inline function divideElected(sum: v128, weights: v128): v128 {
  const none = v128.and(f32x4.eq(weights, f32x4.splat(0)), floatOne());
  return f32x4.div(sum, v128.or(weights, none));
}

/** A quarter of a group: the elected sum over all sources, divided by its weights where asked. */
@inline export function elect(quarter: usize, total: v128, tableEnd: usize, divides: bool): v128 {
  const flip = flips(total);
  let sum = f32x4.splat(0);
  let weights = f32x4.splat(0);
  let stored = GROUP + quarter;
  for (let entry = TABLE; entry < tableEnd; entry += 16, stored += 64) {
    const value = v128.load(stored);
    const chosen = vote(value, flip);
    sum = f32x4.add(sum, f32x4.mul(value, chosen));
    if (divides) weights = f32x4.add(weights, f32x4.mul(v128.load32_splat(entry, 12), chosen));
  }
  return divides ? divideElected(sum, weights) : sum;
}

/**
 * The same of two values, which need not go through memory. Where the result is not finite it is some other such value:
 * values are taken or left, not multiplied by 1 or 0. An infinity is left only against one that is taken.
 */
@inline export function electPair(v: v128, w: v128, weightV: v128, weightW: v128, divides: bool): v128 {
  const zero = f32x4.splat(0);
  const flip = v128.and(f32x4.add(v, w), sign());
  const leftV = f32x4.le(v128.xor(v, flip), zero);
  const leftW = f32x4.le(v128.xor(w, flip), zero);
  const sum = f32x4.add(v128.andnot(v, leftV), v128.andnot(w, leftW));
  if (!divides) return sum;
  return divideElected(sum, f32x4.add(v128.andnot(weightV, leftV), v128.andnot(weightW, leftW)));
}
