// core/ops/reduce.ts: float64 sums in eight lanes by element index mod 8, lanes added 0 to 7.

@inline function promoteHigh(values: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<u32>(values, values, 2, 3, 2, 3));
}

export function dot(a: usize, b: usize, count: i32): f64 {
  let sum01 = f64x2.splat(0);
  let sum23 = f64x2.splat(0);
  let sum45 = f64x2.splat(0);
  let sum67 = f64x2.splat(0);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~7) << 2;
  for (; i < vectorEnd; i += 32) {
    const a0 = v128.load(a + i);
    const b0 = v128.load(b + i);
    const a1 = v128.load(a + i, 16);
    const b1 = v128.load(b + i, 16);
    sum01 = f64x2.add(sum01, f64x2.mul(f64x2.promote_low_f32x4(a0), f64x2.promote_low_f32x4(b0)));
    sum23 = f64x2.add(sum23, f64x2.mul(promoteHigh(a0), promoteHigh(b0)));
    sum45 = f64x2.add(sum45, f64x2.mul(f64x2.promote_low_f32x4(a1), f64x2.promote_low_f32x4(b1)));
    sum67 = f64x2.add(sum67, f64x2.mul(promoteHigh(a1), promoteHigh(b1)));
  }
  // The tail has fewer than eight elements: element j of it belongs to lane j.
  const lanes = memory.data(64);
  v128.store(lanes, sum01);
  v128.store(lanes, sum23, 16);
  v128.store(lanes, sum45, 32);
  v128.store(lanes, sum67, 48);
  const tail = count & 7;
  for (let j = 0; j < tail; j++) {
    const product = <f64>load<f32>(a + i + (<usize>j << 2)) * <f64>load<f32>(b + i + (<usize>j << 2));
    const lane = lanes + (<usize>j << 3);
    store<f64>(lane, load<f64>(lane) + product);
  }
  let sum: f64 = 0;
  for (let lane = 0; lane < 8; lane++) sum += load<f64>(lanes + (<usize>lane << 3));
  return sum;
}
