// core/ops/masked.ts: task vectors under masks of which only values of the majority's sign count, sixteen elements at a
// time.
import { floatOne, sign } from "./constants";
import { KeyBand, LeastKey, loadFirst, MaskBits, TABLE, weigh } from "./masked-sources";
import { finish, storeGroup } from "./narrow-group";
import { lower, rest, upper } from "./stored";

/** Weighted differences of one group of sixteen, 64 bytes a source. */
const GROUP: usize = memory.data(4096);

/** Sign bits of the minority: set where the sum is neither positive nor zero. */
@inline function flips(sum: v128): v128 {
  return v128.andnot(sign(), f32x4.ge(sum, f32x4.splat(0)));
}

/** One where the value has the majority's sign, else zero. */
@inline function vote(value: v128, flip: v128): v128 {
  return v128.and(f32x4.gt(v128.xor(value, flip), f32x4.splat(0)), floatOne());
}

/** A quarter of a group: the elected sum over all sources, divided by its weights where asked. */
@inline function elect(quarter: usize, total: v128, tableEnd: usize, divides: bool): v128 {
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

@inline function electOf<T, How>(b: usize, n: i32, divides: bool, multiplier: f32, target: usize, count: i32): void {
  const half: usize = 8 * sizeof<T>();
  const tableEnd = TABLE + (<usize>n << 4);
  const multiplies = multiplier != 1;
  const multipliers = f32x4.splat(multiplier);
  let offset: usize = 0;
  let bitOffset: usize = 0;
  const end = target + (<usize>count << 2);
  for (let t = target; t < end; t += 64, offset += 2 * half, bitOffset += 2) {
    const b0 = v128.load(b + offset);
    const b1 = v128.load(b + offset + half);
    const base0 = lower<T>(b0);
    const base1 = upper<T>(rest<T>(b + offset, b0));
    const base2 = lower<T>(b1);
    const base3 = upper<T>(rest<T>(b + offset + half, b1));
    let sum0 = f32x4.splat(0);
    let sum1 = f32x4.splat(0);
    let sum2 = f32x4.splat(0);
    let sum3 = f32x4.splat(0);
    let stored = GROUP;
    for (let entry = TABLE; entry < tableEnd; entry += 16, stored += 64) {
      const source = <usize>load<u32>(entry) + offset;
      const first = loadFirst<How>(entry, bitOffset);
      const second = v128.load32_splat(entry, 8);
      const weight = v128.load32_splat(entry, 12);
      const s0 = v128.load(source);
      const s1 = v128.load(source + half);
      const v0 = weigh<How>(f32x4.sub(lower<T>(s0), base0), 0, first, second, weight);
      const v1 = weigh<How>(f32x4.sub(upper<T>(rest<T>(source, s0)), base1), 1, first, second, weight);
      const v2 = weigh<How>(f32x4.sub(lower<T>(s1), base2), 2, first, second, weight);
      const v3 = weigh<How>(f32x4.sub(upper<T>(rest<T>(source + half, s1)), base3), 3, first, second, weight);
      storeGroup<f32>(stored, v0, v1, v2, v3);
      sum0 = f32x4.add(sum0, v0);
      sum1 = f32x4.add(sum1, v1);
      sum2 = f32x4.add(sum2, v2);
      sum3 = f32x4.add(sum3, v3);
    }
    sum0 = elect(0, sum0, tableEnd, divides);
    sum1 = elect(16, sum1, tableEnd, divides);
    sum2 = elect(32, sum2, tableEnd, divides);
    sum3 = elect(48, sum3, tableEnd, divides);
    v128.store(t, finish(sum0, base0, true, false, sum0, multiplies, multipliers));
    v128.store(t, finish(sum1, base1, true, false, sum1, multiplies, multipliers), 16);
    v128.store(t, finish(sum2, base2, true, false, sum2, multiplies, multipliers), 32);
    v128.store(t, finish(sum3, base3, true, false, sum3, multiplies, multipliers), 48);
  }
}

/** The elected sum of two values, divided by its weights where asked. */
@inline function electPair(v: v128, w: v128, weightV: v128, weightW: v128, divides: bool): v128 {
  const flip = flips(f32x4.add(v, w));
  const chosenV = vote(v, flip);
  const chosenW = vote(w, flip);
  // From 0 on, as sums of any number are: two negative zeros are 0 then.
  const sum = f32x4.add(f32x4.add(f32x4.splat(0), f32x4.mul(v, chosenV)), f32x4.mul(w, chosenW));
  if (!divides) return sum;
  return divideElected(sum, f32x4.add(f32x4.mul(weightV, chosenV), f32x4.mul(weightW, chosenW)));
}

/** electOf for two sources, the usual number, whose values need not go through memory. */
@inline function electPairOf<T, How>(b: usize, divides: bool, multiplier: f32, target: usize, count: i32): void {
  const step: usize = 8 * sizeof<T>();
  const v = <usize>load<u32>(TABLE);
  const w = <usize>load<u32>(TABLE, 16);
  const multiplies = multiplier != 1;
  const multipliers = f32x4.splat(multiplier);
  const weightV = v128.load32_splat(TABLE, 12);
  const weightW = v128.load32_splat(TABLE, 28);
  let offset: usize = 0;
  let bitOffset: usize = 0;
  const end = target + (<usize>count << 2);
  for (let t = target; t < end; t += 32, offset += step, bitOffset++) {
    const b0 = v128.load(b + offset);
    const v0 = v128.load(v + offset);
    const w0 = v128.load(w + offset);
    const b1 = rest<T>(b + offset, b0);
    const v1 = rest<T>(v + offset, v0);
    const w1 = rest<T>(w + offset, w0);
    const firstV = loadFirst<How>(TABLE, bitOffset);
    const firstW = loadFirst<How>(TABLE + 16, bitOffset);
    const secondV = v128.load32_splat(TABLE, 8);
    const secondW = v128.load32_splat(TABLE, 24);
    const base0 = lower<T>(b0);
    const base1 = upper<T>(b1);
    const valueV0 = weigh<How>(f32x4.sub(lower<T>(v0), base0), 0, firstV, secondV, weightV);
    const valueW0 = weigh<How>(f32x4.sub(lower<T>(w0), base0), 0, firstW, secondW, weightW);
    const valueV1 = weigh<How>(f32x4.sub(upper<T>(v1), base1), 1, firstV, secondV, weightV);
    const valueW1 = weigh<How>(f32x4.sub(upper<T>(w1), base1), 1, firstW, secondW, weightW);
    const sum0 = electPair(valueV0, valueW0, weightV, weightW, divides);
    const sum1 = electPair(valueV1, valueW1, weightV, weightW, divides);
    v128.store(t, finish(sum0, base0, true, false, sum0, multiplies, multipliers));
    v128.store(t, finish(sum1, base1, true, false, sum1, multiplies, multipliers), 16);
  }
}

/** 1 divides where the weights that count cancel, or none counts. */
@inline function divideElected(sum: v128, weights: v128): v128 {
  const none = v128.and(f32x4.eq(weights, f32x4.splat(0)), floatOne());
  return f32x4.div(sum, v128.or(weights, none));
}

@inline function electBy<How>(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  if (dtype == 0 && n == 2) electPairOf<u16, How>(base, divides, multiplier, target, count);
  else if (dtype == 0) electOf<u16, How>(base, n, divides, multiplier, target, count);
  else if (dtype == 1) electOf<i16, How>(base, n, divides, multiplier, target, count);
  else electOf<f32, How>(base, n, divides, multiplier, target, count);
}

/** With election; `divides` by the sum of the chosen weights of each element. */
export function electMasked(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  electBy<MaskBits>(dtype, base, n, divides, multiplier, target, count);
}

/** With election, kept by keys. */
export function electBanded(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  electBy<KeyBand>(dtype, base, n, divides, multiplier, target, count);
}

/** With election, kept by keys of which the largest are kept. */
export function electLargest(
  dtype: i32,
  base: usize,
  n: i32,
  divides: bool,
  multiplier: f32,
  target: usize,
  count: i32,
): void {
  electBy<LeastKey>(dtype, base, n, divides, multiplier, target, count);
}
