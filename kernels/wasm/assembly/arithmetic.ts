// core/ops/arithmetic.ts: element-wise float32 loops, four lanes at a time and a scalar tail.

export function fill(target: usize, value: f32, count: i32): void {
  const lanes = f32x4.splat(value);
  let t = target;
  const vectorEnd = target + (<usize>(count & ~3) << 2);
  for (; t < vectorEnd; t += 16) v128.store(t, lanes);
  const end = target + (<usize>count << 2);
  for (; t < end; t += 4) store<f32>(t, value);
}

export function copy(target: usize, a: usize, count: i32): void {
  memory.copy(target, a, <usize>count << 2);
}

export function add(target: usize, a: usize, b: usize, count: i32): void {
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) v128.store(target + i, f32x4.add(v128.load(a + i), v128.load(b + i)));
  const end = <usize>count << 2;
  for (; i < end; i += 4) store<f32>(target + i, load<f32>(a + i) + load<f32>(b + i));
}

export function subtract(target: usize, a: usize, b: usize, count: i32): void {
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) v128.store(target + i, f32x4.sub(v128.load(a + i), v128.load(b + i)));
  const end = <usize>count << 2;
  for (; i < end; i += 4) store<f32>(target + i, load<f32>(a + i) - load<f32>(b + i));
}

export function scale(target: usize, a: usize, factor: f32, count: i32): void {
  const lanes = f32x4.splat(factor);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) v128.store(target + i, f32x4.mul(v128.load(a + i), lanes));
  const end = <usize>count << 2;
  for (; i < end; i += 4) store<f32>(target + i, load<f32>(a + i) * factor);
}

export function divide(target: usize, a: usize, divisor: f32, count: i32): void {
  const lanes = f32x4.splat(divisor);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) v128.store(target + i, f32x4.div(v128.load(a + i), lanes));
  const end = <usize>count << 2;
  for (; i < end; i += 4) store<f32>(target + i, load<f32>(a + i) / divisor);
}

export function addScaled(target: usize, a: usize, factor: f32, count: i32): void {
  const lanes = f32x4.splat(factor);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    v128.store(target + i, f32x4.add(v128.load(target + i), f32x4.mul(v128.load(a + i), lanes)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) store<f32>(target + i, load<f32>(target + i) + load<f32>(a + i) * factor);
}

export function addScaledDifference(target: usize, a: usize, b: usize, factor: f32, count: i32): void {
  const lanes = f32x4.splat(factor);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const difference = f32x4.sub(v128.load(a + i), v128.load(b + i));
    v128.store(target + i, f32x4.add(v128.load(target + i), f32x4.mul(difference, lanes)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    store<f32>(target + i, load<f32>(target + i) + (load<f32>(a + i) - load<f32>(b + i)) * factor);
  }
}
