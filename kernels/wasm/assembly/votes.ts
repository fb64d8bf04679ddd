// core/ops/votes.ts: four elements at a time. The host rounds counts up to whole groups where elements do not meet;
// what adds up over elements has a scalar tail.

/** a where both are true, else 0 times it: keeps NaN and infinity visible. */
@inline function times(value: v128, keep: v128): v128 {
  return f32x4.mul(value, v128.and(keep, f32x4.splat(1)));
}

export function trim(target: usize, a: usize, base: usize, threshold: f32, count: i32): void {
  const least = f32x4.splat(threshold);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const delta = f32x4.sub(v128.load(a + i), v128.load(base + i));
    v128.store(target + i, times(delta, f32x4.ge(f32x4.abs(delta), least)));
  }
}

export function keepSign(target: usize, elected: usize, zeroSign: f32, count: i32): void {
  const zero = f32x4.splat(0);
  const orPositive = f32x4.gt(f32x4.splat(zeroSign), zero);
  const orNegative = f32x4.lt(f32x4.splat(zeroSign), zero);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const sign = v128.load(elected + i);
    const value = v128.load(target + i);
    const positive = f32x4.gt(sign, zero);
    const negative = f32x4.lt(sign, zero);
    const open = v128.not(v128.or(positive, negative));
    const agreesUp = v128.and(v128.or(positive, v128.and(open, orPositive)), f32x4.gt(value, zero));
    const agreesDown = v128.and(v128.or(negative, v128.and(open, orNegative)), f32x4.lt(value, zero));
    v128.store(target + i, times(value, v128.or(agreesUp, agreesDown)));
  }
}

export function addCounted(sum: usize, counts: usize, a: usize, count: i32): void {
  const zero = f32x4.splat(0);
  const one = f32x4.splat(1);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(a + i);
    v128.store(sum + i, f32x4.add(v128.load(sum + i), value));
    v128.store(counts + i, f32x4.add(v128.load(counts + i), v128.and(f32x4.ne(value, zero), one)));
  }
}

export function keepLargest(target: usize, a: usize, count: i32): void {
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(a + i);
    const known = v128.load(target + i);
    v128.store(target + i, v128.bitselect(value, known, f32x4.gt(f32x4.abs(value), f32x4.abs(known))));
  }
}

export function addSquares(sum: usize, a: usize, divisor: f32, count: i32): void {
  const zero = f32x4.splat(0);
  const divisors = f32x4.splat(divisor);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(a + i);
    const own = f32x4.div(f32x4.mul(value, value), divisors);
    const signed = v128.bitselect(f32x4.neg(own), own, f32x4.lt(value, zero));
    v128.store(sum + i, f32x4.add(v128.load(sum + i), signed));
  }
}

export function keepLargestSquare(best: usize, winner: usize, a: usize, divisor: f32, count: i32): void {
  const divisors = f32x4.splat(divisor);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(a + i);
    const known = v128.load(best + i);
    const own = f32x4.div(f32x4.mul(value, value), divisors);
    const larger = f32x4.gt(own, known);
    v128.store(best + i, v128.bitselect(own, known, larger));
    v128.store(winner + i, v128.bitselect(value, v128.load(winner + i), larger));
  }
}

export function divideCounted(target: usize, counts: usize, count: i32): void {
  const one = f32x4.splat(1);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    v128.store(target + i, f32x4.div(v128.load(target + i), f32x4.max(v128.load(counts + i), one)));
  }
}

export function balanceSigns(a: usize, count: i32): i32 {
  const zero = f32x4.splat(0);
  let lanes = i32x4.splat(0);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const value = v128.load(a + i);
    lanes = i32x4.add(i32x4.sub(lanes, f32x4.gt(value, zero)), f32x4.lt(value, zero));
  }
  let balance = i32x4.extract_lane(lanes, 0) + i32x4.extract_lane(lanes, 1);
  balance += i32x4.extract_lane(lanes, 2) + i32x4.extract_lane(lanes, 3);
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const value = load<f32>(a + i);
    balance += i32(value > 0) - i32(value < 0);
  }
  return balance;
}

export function sumAbsolute(a: usize, count: i32): f64 {
  let low = f64x2.splat(0);
  let high = f64x2.splat(0);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const value = f32x4.abs(v128.load(a + i));
    low = f64x2.add(low, f64x2.promote_low_f32x4(value));
    high = f64x2.add(high, f64x2.promote_low_f32x4(v128.shuffle<u32>(value, value, 2, 3, 2, 3)));
  }
  let sum0 = f64x2.extract_lane(low, 0);
  let sum1 = f64x2.extract_lane(low, 1);
  let sum2 = f64x2.extract_lane(high, 0);
  const tail = count & 3;
  if (tail > 0) sum0 += <f64>abs<f32>(load<f32>(a + i));
  if (tail > 1) sum1 += <f64>abs<f32>(load<f32>(a + i, 4));
  if (tail > 2) sum2 += <f64>abs<f32>(load<f32>(a + i, 8));
  return sum0 + sum1 + sum2 + f64x2.extract_lane(high, 1);
}

export function countLocal(counts: usize, a: usize, base: usize, sum: usize, share: f32, count: i32): void {
  const one = f32x4.splat(1);
  const shares = f32x4.splat(share);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(a + i);
    const origin = v128.load(base + i);
    const own = f32x4.abs(f32x4.sub(origin, value));
    const other = f32x4.abs(f32x4.sub(f32x4.add(origin, v128.load(sum + i)), value));
    const local = v128.and(f32x4.gt(own, f32x4.mul(shares, other)), one);
    v128.store(counts + i, f32x4.add(v128.load(counts + i), local));
  }
}

export function keepCounted(target: usize, counts: usize, least: f32, count: i32): void {
  const leasts = f32x4.splat(least);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    v128.store(target + i, times(v128.load(target + i), f32x4.ge(v128.load(counts + i), leasts)));
  }
}
