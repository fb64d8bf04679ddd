// core/ops/scores.ts: four elements at a time within a row with a scalar tail.

@inline function scoreRow(target: usize, a: usize, base: usize, factor: f32, count: usize): void {
  const factors = f32x4.splat(factor);
  let i: usize = 0;
  const vectorEnd = (count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const distance = f32x4.abs(f32x4.sub(v128.load(a + i), v128.load(base + i)));
    v128.store(target + i, f32x4.mul(distance, factors));
  }
  const end = count << 2;
  for (; i < end; i += 4) store<f32>(target + i, abs<f32>(load<f32>(a + i) - load<f32>(base + i)) * factor);
}

/** `factors` is the address of the first element's row, which begins `skip` elements before it. */
export function writeScores(
  target: usize,
  a: usize,
  base: usize,
  factors: usize,
  length: i32,
  skip: i32,
  count: i32,
): void {
  let done = 0;
  let row = min<i32>(length - skip, count);
  while (done < count) {
    const at = <usize>done << 2;
    scoreRow(target + at, a + at, base + at, load<f32>(factors), <usize>row);
    done += row;
    row = min<i32>(length, count - done);
    factors += 4;
  }
}

export function addScored(
  target: usize,
  a: usize,
  base: usize,
  scores: usize,
  threshold: f32,
  count: i32,
): void {
  const one = f32x4.splat(1);
  const least = f32x4.splat(threshold);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const origin = v128.load(base + i);
    const kept = v128.and(f32x4.ge(v128.load(scores + i), least), one);
    const delta = f32x4.sub(v128.load(a + i), origin);
    v128.store(target + i, f32x4.add(origin, f32x4.mul(delta, kept)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const origin = load<f32>(base + i);
    const kept: f32 = load<f32>(scores + i) >= threshold ? 1 : 0;
    store<f32>(target + i, origin + (load<f32>(a + i) - origin) * kept);
  }
}
