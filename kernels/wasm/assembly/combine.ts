// core/ops/combine.ts: fused linear combinations. Sources and factors come in a table that the host fills: entry i
// holds the address of source i (u32) and its factor (f32). The type parameter names the stored dtype: u16 = BF16, i16
// = F16, f32 = F32. Tails are padded: the host gives whole vectors only and finishes the rest with single operations.
import { halvesToFloats } from "./cast";

/** Room for COMBINE_SOURCES_MAX entries of 8 bytes. */
const TABLE: usize = memory.data(512);

export function combineTable(): usize {
  return TABLE;
}

/** Four stored values from `address` as float32. */
@inline function load4<T>(address: usize): v128 {
  if (isFloat<T>()) return v128.load(address);
  if (isSigned<T>()) return halvesToFloats(v128.load_ext<i16>(address));
  // BF16 is the upper half of float32: one shuffle with zeros.
  return v128.shuffle<u16>(i16x8.splat(0), v128.load64_zero(address), 0, 8, 1, 9, 2, 10, 3, 11);
}

@inline function combine<T>(n: i32, divisor: f32, target: usize, count: i32): void {
  const step: usize = 4 * sizeof<T>();
  const tableEnd = TABLE + (<usize>n << 3);
  const divides = divisor != 1;
  const divisors = f32x4.splat(divisor);
  let offset: usize = 0;
  let t = target;
  const end = target + (<usize>count << 2);
  for (; t < end; t += 64, offset += step * 4) {
    let sum0 = f32x4.splat(0);
    let sum1 = f32x4.splat(0);
    let sum2 = f32x4.splat(0);
    let sum3 = f32x4.splat(0);
    for (let entry = TABLE; entry < tableEnd; entry += 8) {
      const source = <usize>load<u32>(entry) + offset;
      const factor = v128.load_splat<u32>(entry, 4);
      sum0 = f32x4.add(sum0, f32x4.mul(load4<T>(source), factor));
      sum1 = f32x4.add(sum1, f32x4.mul(load4<T>(source + step), factor));
      sum2 = f32x4.add(sum2, f32x4.mul(load4<T>(source + step * 2), factor));
      sum3 = f32x4.add(sum3, f32x4.mul(load4<T>(source + step * 3), factor));
    }
    if (divides) {
      sum0 = f32x4.div(sum0, divisors);
      sum1 = f32x4.div(sum1, divisors);
      sum2 = f32x4.div(sum2, divisors);
      sum3 = f32x4.div(sum3, divisors);
    }
    v128.store(t, sum0);
    v128.store(t, sum1, 16);
    v128.store(t, sum2, 32);
    v128.store(t, sum3, 48);
  }
}

@inline function finish(sum: v128, base: v128, divides: bool, divisors: v128, multiplies: bool, factor: v128): v128 {
  if (divides) sum = f32x4.div(sum, divisors);
  if (multiplies) sum = f32x4.mul(sum, factor);
  return f32x4.add(base, sum);
}

@inline function combineDeltas<T>(b: usize, n: i32, divisor: f32, multiplier: f32, target: usize, count: i32): void {
  const step: usize = 4 * sizeof<T>();
  const tableEnd = TABLE + (<usize>n << 3);
  const divides = divisor != 1;
  const divisors = f32x4.splat(divisor);
  const multiplies = multiplier != 1;
  const multipliers = f32x4.splat(multiplier);
  let offset: usize = 0;
  let t = target;
  const end = target + (<usize>count << 2);
  for (; t < end; t += 64, offset += step * 4) {
    const base0 = load4<T>(b + offset);
    const base1 = load4<T>(b + offset + step);
    const base2 = load4<T>(b + offset + step * 2);
    const base3 = load4<T>(b + offset + step * 3);
    let sum0 = f32x4.splat(0);
    let sum1 = f32x4.splat(0);
    let sum2 = f32x4.splat(0);
    let sum3 = f32x4.splat(0);
    for (let entry = TABLE; entry < tableEnd; entry += 8) {
      const source = <usize>load<u32>(entry) + offset;
      const factor = v128.load_splat<u32>(entry, 4);
      sum0 = f32x4.add(sum0, f32x4.mul(f32x4.sub(load4<T>(source), base0), factor));
      sum1 = f32x4.add(sum1, f32x4.mul(f32x4.sub(load4<T>(source + step), base1), factor));
      sum2 = f32x4.add(sum2, f32x4.mul(f32x4.sub(load4<T>(source + step * 2), base2), factor));
      sum3 = f32x4.add(sum3, f32x4.mul(f32x4.sub(load4<T>(source + step * 3), base3), factor));
    }
    v128.store(t, finish(sum0, base0, divides, divisors, multiplies, multipliers));
    v128.store(t, finish(sum1, base1, divides, divisors, multiplies, multipliers), 16);
    v128.store(t, finish(sum2, base2, divides, divisors, multiplies, multipliers), 32);
    v128.store(t, finish(sum3, base3, divides, divisors, multiplies, multipliers), 48);
  }
}

export function combineBF16(n: i32, divisor: f32, target: usize, count: i32): void {
  combine<u16>(n, divisor, target, count);
}
export function combineF16(n: i32, divisor: f32, target: usize, count: i32): void {
  combine<i16>(n, divisor, target, count);
}
export function combineF32(n: i32, divisor: f32, target: usize, count: i32): void {
  combine<f32>(n, divisor, target, count);
}
export function combineDeltasBF16(b: usize, n: i32, divisor: f32, multiplier: f32, target: usize, count: i32): void {
  combineDeltas<u16>(b, n, divisor, multiplier, target, count);
}
export function combineDeltasF16(b: usize, n: i32, divisor: f32, multiplier: f32, target: usize, count: i32): void {
  combineDeltas<i16>(b, n, divisor, multiplier, target, count);
}
export function combineDeltasF32(b: usize, n: i32, divisor: f32, multiplier: f32, target: usize, count: i32): void {
  combineDeltas<f32>(b, n, divisor, multiplier, target, count);
}
