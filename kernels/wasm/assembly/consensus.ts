// core/ops/consensus.ts: four elements at a time with a scalar tail; moments in float64, two lanes twice.

const FLOOR: f32 = 1e-6;

/** Bits 0 to 3, one for every lane. */
const LANE_BITS: usize = memory.data<u32>([1, 2, 4, 8]);

/** 1.0 in the lanes of element i to i + 3 that are marked, else 0; `i` is a multiple of 4. */
@inline function marksOf(bits: usize, i: usize): v128 {
  const lanes = v128.load(LANE_BITS);
  const group = i32x4.splat(<i32>load<u8>(bits + (i >> 3)) >> (<i32>i & 4));
  return v128.and(i32x4.eq(v128.and(group, lanes), lanes), f32x4.splat(1));
}

@inline function markOf(bits: usize, i: usize): f32 {
  return <f32>((<u32>load<u8>(bits + (i >> 3)) >> (<u32>i & 7)) & 1);
}

@inline function promoteHigh(values: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<u32>(values, values, 2, 3, 2, 3));
}

@inline function addPair(means: usize, squares: usize, delta: v128, ordinal: v128, isFirst: bool): void {
  const mean = isFirst ? f64x2.splat(0) : v128.load(means);
  const square = isFirst ? f64x2.splat(0) : v128.load(squares);
  const distance = f64x2.sub(delta, mean);
  const next = f64x2.add(mean, f64x2.div(distance, ordinal));
  v128.store(means, next);
  v128.store(squares, f64x2.add(square, f64x2.mul(distance, f64x2.sub(delta, next))));
}

export function addMoments(means: usize, squares: usize, a: usize, base: usize, ordinal: i32, count: i32): void {
  const isFirst = ordinal == 1;
  const ordinals = f64x2.splat(<f64>ordinal);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const delta = f32x4.sub(v128.load(a + i), v128.load(base + i));
    addPair(means + 2 * i, squares + 2 * i, f64x2.promote_low_f32x4(delta), ordinals, isFirst);
    addPair(means + 2 * i + 16, squares + 2 * i + 16, promoteHigh(delta), ordinals, isFirst);
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const delta = <f64>(load<f32>(a + i) - load<f32>(base + i));
    const mean: f64 = isFirst ? 0 : load<f64>(means + 2 * i);
    const square: f64 = isFirst ? 0 : load<f64>(squares + 2 * i);
    const distance = delta - mean;
    const next = mean + distance / <f64>ordinal;
    store<f64>(means + 2 * i, next);
    store<f64>(squares + 2 * i, square + distance * (delta - next));
  }
}

export function writeVariance(target: usize, squares: usize, models: i32, count: i32): void {
  const end = <usize>count << 2;
  for (let i: usize = 0; i < end; i += 4) store<f32>(target + i, <f32>(load<f64>(squares + 2 * i) / <f64>models));
}

export function addMarked(target: usize, a: usize, base: usize, bits: usize, count: i32): void {
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3);
  for (; i < vectorEnd; i += 4) {
    const at = i << 2;
    const delta = f32x4.sub(v128.load(a + at), v128.load(base + at));
    v128.store(target + at, f32x4.add(v128.load(target + at), f32x4.mul(delta, marksOf(bits, i))));
  }
  for (; i < <usize>count; i++) {
    const at = i << 2;
    const delta = load<f32>(a + at) - load<f32>(base + at);
    store<f32>(target + at, load<f32>(target + at) + delta * markOf(bits, i));
  }
}

export function addElected(
  majority: usize,
  sum: usize,
  weights: usize,
  a: usize,
  base: usize,
  bits: usize,
  weight: f32,
  count: i32,
): void {
  const zero = f32x4.splat(0);
  const one = f32x4.splat(1);
  const weightLanes = f32x4.splat(weight);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3);
  for (; i < vectorEnd; i += 4) {
    const at = i << 2;
    const value = f32x4.mul(f32x4.sub(v128.load(a + at), v128.load(base + at)), marksOf(bits, i));
    const positive = f32x4.ge(v128.load(majority + at), zero);
    const agrees = v128.bitselect(f32x4.gt(value, zero), f32x4.lt(value, zero), positive);
    const vote = v128.and(agrees, one);
    const added = f32x4.mul(f32x4.mul(value, weightLanes), vote);
    v128.store(sum + at, f32x4.add(v128.load(sum + at), added));
    v128.store(weights + at, f32x4.add(v128.load(weights + at), f32x4.mul(weightLanes, vote)));
  }
  for (; i < <usize>count; i++) {
    const at = i << 2;
    const value = (load<f32>(a + at) - load<f32>(base + at)) * markOf(bits, i);
    const agrees = load<f32>(majority + at) >= 0 ? value > 0 : value < 0;
    const vote: f32 = agrees ? 1 : 0;
    store<f32>(sum + at, load<f32>(sum + at) + value * weight * vote);
    store<f32>(weights + at, load<f32>(weights + at) + weight * vote);
  }
}

export function finishElected(target: usize, sum: usize, weights: usize, base: usize, count: i32): void {
  const floor = f32x4.splat(FLOOR);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const divisor = f32x4.max(v128.load(weights + i), floor);
    v128.store(target + i, f32x4.add(v128.load(base + i), f32x4.div(v128.load(sum + i), divisor)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const weight = load<f32>(weights + i);
    store<f32>(target + i, load<f32>(base + i) + load<f32>(sum + i) / max<f32>(weight, FLOOR));
  }
}
