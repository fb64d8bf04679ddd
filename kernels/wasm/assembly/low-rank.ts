// core/ops/low-rank.ts: 32 elements at a time, their sums in registers while the terms go by; then four, then one.
// Strides are in bytes.

export function addLowRank(
  target: usize,
  left: usize,
  leftStride: usize,
  right: usize,
  rightStride: usize,
  rank: i32,
  scale: f32,
  count: i32,
): void {
  const scales = f32x4.splat(scale);
  const leftEnd = left + <usize>rank * leftStride;
  let t = target;
  let r = right;
  const blockEnd = target + (<usize>(count & ~31) << 2);
  for (; t < blockEnd; t += 128, r += 128) {
    let sum0 = f32x4.splat(0);
    let sum1 = f32x4.splat(0);
    let sum2 = f32x4.splat(0);
    let sum3 = f32x4.splat(0);
    let sum4 = f32x4.splat(0);
    let sum5 = f32x4.splat(0);
    let sum6 = f32x4.splat(0);
    let sum7 = f32x4.splat(0);
    let b = r;
    for (let l = left; l < leftEnd; l += leftStride, b += rightStride) {
      const a = v128.load_splat<u32>(l);
      sum0 = f32x4.add(sum0, f32x4.mul(a, v128.load(b)));
      sum1 = f32x4.add(sum1, f32x4.mul(a, v128.load(b, 16)));
      sum2 = f32x4.add(sum2, f32x4.mul(a, v128.load(b, 32)));
      sum3 = f32x4.add(sum3, f32x4.mul(a, v128.load(b, 48)));
      sum4 = f32x4.add(sum4, f32x4.mul(a, v128.load(b, 64)));
      sum5 = f32x4.add(sum5, f32x4.mul(a, v128.load(b, 80)));
      sum6 = f32x4.add(sum6, f32x4.mul(a, v128.load(b, 96)));
      sum7 = f32x4.add(sum7, f32x4.mul(a, v128.load(b, 112)));
    }
    addTo(t, sum0, scales);
    addTo(t + 16, sum1, scales);
    addTo(t + 32, sum2, scales);
    addTo(t + 48, sum3, scales);
    addTo(t + 64, sum4, scales);
    addTo(t + 80, sum5, scales);
    addTo(t + 96, sum6, scales);
    addTo(t + 112, sum7, scales);
  }
  const vectorEnd = target + (<usize>(count & ~3) << 2);
  for (; t < vectorEnd; t += 16, r += 16) {
    let sum = f32x4.splat(0);
    let b = r;
    for (let l = left; l < leftEnd; l += leftStride, b += rightStride) {
      sum = f32x4.add(sum, f32x4.mul(v128.load_splat<u32>(l), v128.load(b)));
    }
    addTo(t, sum, scales);
  }
  const end = target + (<usize>count << 2);
  for (; t < end; t += 4, r += 4) {
    let sum: f32 = 0;
    let b = r;
    for (let l = left; l < leftEnd; l += leftStride, b += rightStride) sum += load<f32>(l) * load<f32>(b);
    store<f32>(t, load<f32>(t) + sum * scale);
  }
}

@inline function addTo(target: usize, sum: v128, scales: v128): void {
  v128.store(target, f32x4.add(v128.load(target), f32x4.mul(sum, scales)));
}
