// core/ops/signs.ts: bits of the signs seen at each element, four elements at a time.

@inline function signBits(values: v128): v128 {
  const zero = f32x4.splat(0);
  const positive = v128.and(f32x4.gt(values, zero), i32x4.splat(1));
  return v128.or(positive, v128.and(f32x4.lt(values, zero), i32x4.splat(2)));
}

export function markSigns(marks: usize, a: usize, isFirst: bool, count: i32): void {
  let i: usize = 0;
  const keep = i32x4.splat(isFirst ? 0 : -1);
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    v128.store(marks + i, v128.or(v128.and(v128.load(marks + i), keep), signBits(v128.load(a + i))));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const value = load<f32>(a + i);
    const seen = isFirst ? 0 : load<u32>(marks + i);
    store<u32>(marks + i, seen | u32(value > 0) | (u32(value < 0) << 1));
  }
}

export function countConflicts(marks: usize, count: i32): i32 {
  const both = i32x4.splat(3);
  let sums = i32x4.splat(0);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) sums = i32x4.sub(sums, i32x4.eq(v128.load(marks + i), both));
  let total = i32x4.extract_lane(sums, 0) + i32x4.extract_lane(sums, 1);
  total += i32x4.extract_lane(sums, 2) + i32x4.extract_lane(sums, 3);
  const end = <usize>count << 2;
  for (; i < end; i += 4) total += i32(load<u32>(marks + i) == 3);
  return total;
}
