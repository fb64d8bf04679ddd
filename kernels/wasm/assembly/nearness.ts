// core/ops/nearness.ts: four elements at a time with a scalar tail.

const FLOOR: f32 = 1e-6;

export function swapNear(target: usize, a: usize, base: usize, t: f32, count: i32): void {
  const zero = f32x4.splat(0);
  const one = f32x4.splat(1);
  const floor = f32x4.splat(FLOOR);
  const factor = f32x4.splat(t);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~3) << 2;
  for (; i < vectorEnd; i += 16) {
    const value = v128.load(a + i);
    const origin = v128.load(base + i);
    const distance = f32x4.max(f32x4.abs(f32x4.sub(value, origin)), floor);
    const share = f32x4.mul(f32x4.div(one, distance), factor);
    const q = f32x4.min(f32x4.max(share, zero), one);
    v128.store(target + i, f32x4.add(f32x4.mul(q, value), f32x4.mul(f32x4.sub(one, q), origin)));
  }
  const end = <usize>count << 2;
  for (; i < end; i += 4) {
    const value = load<f32>(a + i);
    const origin = load<f32>(base + i);
    const distance = abs<f32>(value - origin);
    const share: f32 = (<f32>1 / max<f32>(distance, FLOOR)) * t;
    const q: f32 = min<f32>(max<f32>(share, 0), 1);
    store<f32>(target + i, q * value + (<f32>1 - q) * origin);
  }
}
