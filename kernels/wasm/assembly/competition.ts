// core/ops/competition.ts: four elements at a time. The host rounds counts up to whole groups, but for findLargest.

const LOG2E: f32 = 1.44269504088896340736;
const LN2_HIGH: f32 = 0.693359375;
const LN2_LOW: f32 = -0.00021219444005469058;
const TANH_SMALL: f32 = 0.35;
const SCORES_FLOOR: f32 = 1e-12;

@inline function step(rest: v128, r: v128, term: f32): v128 {
  return f32x4.add(f32x4.mul(rest, r), f32x4.splat(term));
}

@inline function expSeries(r: v128): v128 {
  let sum = f32x4.splat(<f32>(1.0 / 362880));
  sum = step(sum, r, <f32>(1.0 / 40320));
  sum = step(sum, r, <f32>(1.0 / 5040));
  sum = step(sum, r, <f32>(1.0 / 720));
  sum = step(sum, r, <f32>(1.0 / 120));
  sum = step(sum, r, <f32>(1.0 / 24));
  sum = step(sum, r, <f32>(1.0 / 6));
  sum = step(sum, r, 0.5);
  return f32x4.add(r, f32x4.mul(f32x4.mul(r, r), sum));
}

@inline function exponential(x: v128): v128 {
  const bounded = f32x4.min(f32x4.max(x, f32x4.splat(-87)), f32x4.splat(88));
  const k = f32x4.floor(f32x4.add(f32x4.mul(bounded, f32x4.splat(LOG2E)), f32x4.splat(0.5)));
  const most = f32x4.sub(bounded, f32x4.mul(k, f32x4.splat(LN2_HIGH)));
  const r = f32x4.sub(most, f32x4.mul(k, f32x4.splat(LN2_LOW)));
  const power = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(k), i32x4.splat(127)), 23);
  return f32x4.mul(f32x4.add(f32x4.splat(1), expSeries(r)), power);
}

@inline function tanh4(x: v128): v128 {
  const magnitude = f32x4.min(f32x4.abs(x), f32x4.splat(10));
  const double = f32x4.add(magnitude, magnitude);
  const small = f32x4.lt(magnitude, f32x4.splat(TANH_SMALL));
  const less = expSeries(v128.and(double, small));
  const two = f32x4.splat(2);
  const one = f32x4.splat(1);
  const near = f32x4.div(less, f32x4.add(less, two));
  const far = f32x4.sub(one, f32x4.div(two, f32x4.add(exponential(double), one)));
  const result = v128.bitselect(near, far, small);
  return v128.bitselect(f32x4.neg(result), result, f32x4.lt(x, f32x4.splat(0)));
}

@inline function widthOf(low: f32, high: f32): v128 {
  const width = high - low;
  return f32x4.splat(width == 0 ? f32.MAX_VALUE * 2 : width);
}

@inline function within(value: v128, low: f32, high: f32): v128 {
  return f32x4.min(f32x4.max(value, f32x4.splat(low)), f32x4.splat(high));
}

@inline function withSign(value: v128, sign: v128): v128 {
  const zero = f32x4.splat(0);
  const positive = v128.and(value, f32x4.gt(sign, zero));
  return v128.bitselect(f32x4.neg(value), positive, f32x4.lt(sign, zero));
}

export function writePlaces(target: usize, a: usize, base: usize, low: f32, high: f32, count: i32): void {
  const lows = f32x4.splat(low);
  const width = widthOf(low, high);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const delta = f32x4.sub(v128.load(a + i), v128.load(base + i));
    const place = f32x4.div(f32x4.sub(within(f32x4.abs(delta), low, high), lows), width);
    v128.store(target + i, withSign(place, delta));
  }
}

export function addTanh(target: usize, a: usize, b: usize, count: i32): void {
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const own = tanh4(f32x4.mul(v128.load(a + i), v128.load(b + i)));
    v128.store(target + i, f32x4.add(v128.load(target + i), own));
  }
}

export function scaleExp(target: usize, a: usize, factor: f32, count: i32): void {
  const factors = f32x4.splat(factor);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(a + i);
    const power = exponential(f32x4.mul(factors, f32x4.mul(value, value)));
    v128.store(target + i, f32x4.mul(power, v128.load(target + i)));
  }
}

export function writePositive(target: usize, a: usize, factor: f32, count: i32): void {
  const zero = f32x4.splat(0);
  const factors = f32x4.splat(factor);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    v128.store(target + i, f32x4.max(f32x4.mul(v128.load(a + i), factors), zero));
  }
}

export function findLargest(a: usize, count: i32): f32 {
  let lanes = f32x4.splat(-f32.MAX_VALUE * 2);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) lanes = f32x4.max(lanes, v128.load(a + i));
  let most = max<f32>(f32x4.extract_lane(lanes, 0), f32x4.extract_lane(lanes, 1));
  most = max<f32>(most, max<f32>(f32x4.extract_lane(lanes, 2), f32x4.extract_lane(lanes, 3)));
  const end = <usize>count << 2;
  for (; i < end; i += 4) most = max<f32>(most, load<f32>(a + i));
  return most;
}

export function addCompetitor(
  sum: usize,
  weights: usize,
  model: usize,
  base: usize,
  scores: usize,
  least: f32,
  most: f32,
  low: f32,
  high: f32,
  factor: f32,
  count: i32,
): void {
  const lows = f32x4.splat(low);
  const width = widthOf(low, high);
  const factors = f32x4.splat(factor);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const delta = f32x4.sub(v128.load(model + i), v128.load(base + i));
    const clamped = withSign(within(f32x4.abs(delta), least, most), delta);
    const score = f32x4.div(f32x4.sub(f32x4.max(v128.load(scores + i), lows), lows), width);
    v128.store(sum + i, f32x4.add(v128.load(sum + i), f32x4.mul(f32x4.mul(factors, clamped), score)));
    v128.store(weights + i, f32x4.add(v128.load(weights + i), score));
  }
}

export function finishCompetition(target: usize, sum: usize, weights: usize, base: usize, count: i32): void {
  const floor = f32x4.splat(SCORES_FLOOR);
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 16) {
    const share = f32x4.div(v128.load(sum + i), f32x4.max(v128.load(weights + i), floor));
    v128.store(target + i, f32x4.add(v128.load(base + i), share));
  }
}
