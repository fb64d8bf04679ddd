// core/ops/overlap.ts: four elements at a time with a scalar tail.

/** Two counts of tallyLarge. */
const TALLY: usize = memory.data(8);

export function largeTally(): usize {
  return TALLY;
}

@inline function isLarge(a: v128, base: v128, epsilon: v128): v128 {
  return f32x4.gt(f32x4.abs(f32x4.sub(a, base)), epsilon);
}

export function countLarge(counts: usize, a: usize, base: usize, epsilon: f32, isFirst: bool, count: i32): void {
  const epsilons = f32x4.splat(epsilon);
  const keep = i32x4.splat(isFirst ? 0 : -1);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const large = isLarge(v128.load(a + i), v128.load(base + i), epsilons);
    v128.store(counts + i, i32x4.sub(v128.and(v128.load(counts + i), keep), large));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const before = isFirst ? 0 : load<u32>(counts + i);
    store<u32>(counts + i, before + u32(abs<f32>(load<f32>(a + i) - load<f32>(base + i)) > epsilon));
  }
}

export function tallyLarge(counts: usize, a: usize, base: usize, epsilon: f32, count: i32): void {
  const epsilons = f32x4.splat(epsilon);
  const single = i32x4.splat(1);
  let all = i32x4.splat(0);
  let alone = i32x4.splat(0);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const large = isLarge(v128.load(a + i), v128.load(base + i), epsilons);
    all = i32x4.sub(all, large);
    alone = i32x4.sub(alone, v128.and(large, i32x4.eq(v128.load(counts + i), single)));
  }
  let total = i32x4.extract_lane(all, 0) + i32x4.extract_lane(all, 1);
  total += i32x4.extract_lane(all, 2) + i32x4.extract_lane(all, 3);
  let unique = i32x4.extract_lane(alone, 0) + i32x4.extract_lane(alone, 1);
  unique += i32x4.extract_lane(alone, 2) + i32x4.extract_lane(alone, 3);
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const large = i32(abs<f32>(load<f32>(a + i) - load<f32>(base + i)) > epsilon);
    total += large;
    unique += large & i32(load<u32>(counts + i) == 1);
  }
  store<i32>(TALLY, unique);
  store<i32>(TALLY, total - unique, 4);
}

export function addLarge(
  target: usize,
  counts: usize,
  a: usize,
  base: usize,
  epsilon: f32,
  uniqueFactor: f32,
  count: i32,
): void {
  const epsilons = f32x4.splat(epsilon);
  const single = i32x4.splat(1);
  const one = f32x4.splat(1);
  const uniques = f32x4.splat(uniqueFactor);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const delta = f32x4.sub(v128.load(a + i), v128.load(base + i));
    const large = f32x4.gt(f32x4.abs(delta), epsilons);
    const factor = v128.and(v128.bitselect(uniques, one, i32x4.eq(v128.load(counts + i), single)), large);
    v128.store(target + i, f32x4.add(v128.load(target + i), f32x4.mul(delta, factor)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const delta = load<f32>(a + i) - load<f32>(base + i);
    const factor: f32 = abs<f32>(delta) > epsilon ? (load<u32>(counts + i) == 1 ? uniqueFactor : 1) : 0;
    store<f32>(target + i, load<f32>(target + i) + delta * factor);
  }
}

export function finishLarge(target: usize, counts: usize, base: usize, count: i32): void {
  const single = i32x4.splat(1);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const divisor = f32x4.convert_i32x4_s(i32x4.max_s(v128.load(counts + i), single));
    v128.store(target + i, f32x4.add(v128.load(base + i), f32x4.div(v128.load(target + i), divisor)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const divisor = <f32>max<i32>(load<i32>(counts + i), 1);
    store<f32>(target + i, load<f32>(base + i) + load<f32>(target + i) / divisor);
  }
}
