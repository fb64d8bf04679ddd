// core/ops/combine.ts: fused linear combinations. Sources and factors come in a table that the host fills: entry i
// holds the address of source i (u32) and its factor (f32). The type parameter names the stored dtype as in stored.ts;
// exported functions take it as a number: 0 BF16, 1 F16, 2 F32. They work on whole groups of sixteen: what lies past
// the end is padding.
import { baseAddress, divisor, multiplier, sourceCount } from "./combination";
import { bf16Half, floatZero, integerOne, upperHalves } from "./constants";
import {
  addLargest,
  addMagnitudes,
  areFinite,
  CHUNK,
  finish,
  isLargestFinite,
  joinBF16,
  narrowAgain,
  storeGroup,
  WIDE,
} from "./narrow-group";
import { even, isBF16, lower, odd, rest, upper } from "./stored";

/** Room for COMBINE_SOURCES_MAX entries of 8 bytes. */
const TABLE: usize = memory.data(512);

export function combineTable(): usize {
  return TABLE;
}

/**
 * Elements from byte `offset` of every source on. `differs`: differences to the base are combined, and it is added.
 * `narrows`: results are stored as the sources are, and what is returned says whether they were right to be; else they
 * are float32.
 */
@inline function combineOf<T>(offset: usize, target: usize, count: i32, differs: bool, narrows: bool): bool {
  const half: usize = 8 * sizeof<T>();
  const b = baseAddress();
  const tableEnd = TABLE + (sourceCount() << 3);
  const divides = divisor() != 1;
  const divisors = f32x4.splat(divisor());
  const multiplies = differs && multiplier() != 1;
  const multipliers = f32x4.splat(multiplier());
  const step: usize = narrows ? 2 * half : 64;
  let magnitudes = f32x4.splat(0);
  const end = offset + <usize>((count + 15) >> 4) * 2 * half;
  for (let t = target; offset < end; offset += 2 * half, t += step) {
    const b0 = differs ? v128.load(b + offset) : f32x4.splat(0);
    const b1 = differs ? v128.load(b + offset + half) : b0;
    const base0 = differs ? lower<T>(b0) : b0;
    const base1 = differs ? upper<T>(rest<T>(b + offset, b0)) : b0;
    const base2 = differs ? lower<T>(b1) : b0;
    const base3 = differs ? upper<T>(rest<T>(b + offset + half, b1)) : b0;
    let sum0 = f32x4.splat(0);
    let sum1 = f32x4.splat(0);
    let sum2 = f32x4.splat(0);
    let sum3 = f32x4.splat(0);
    for (let entry = TABLE; entry < tableEnd; entry += 8) {
      const source = <usize>load<u32>(entry) + offset;
      const factor = v128.load32_splat(entry, 4);
      const s0 = v128.load(source);
      const s1 = v128.load(source + half);
      let d0 = lower<T>(s0);
      let d1 = upper<T>(rest<T>(source, s0));
      let d2 = lower<T>(s1);
      let d3 = upper<T>(rest<T>(source + half, s1));
      if (differs) {
        d0 = f32x4.sub(d0, base0);
        d1 = f32x4.sub(d1, base1);
        d2 = f32x4.sub(d2, base2);
        d3 = f32x4.sub(d3, base3);
      }
      sum0 = f32x4.add(sum0, f32x4.mul(d0, factor));
      sum1 = f32x4.add(sum1, f32x4.mul(d1, factor));
      sum2 = f32x4.add(sum2, f32x4.mul(d2, factor));
      sum3 = f32x4.add(sum3, f32x4.mul(d3, factor));
    }
    sum0 = finish(sum0, base0, differs, divides, divisors, multiplies, multipliers);
    sum1 = finish(sum1, base1, differs, divides, divisors, multiplies, multipliers);
    sum2 = finish(sum2, base2, differs, divides, divisors, multiplies, multipliers);
    sum3 = finish(sum3, base3, differs, divides, divisors, multiplies, multipliers);
    if (narrows) {
      magnitudes = addMagnitudes(magnitudes, sum0, sum1, sum2, sum3);
      storeGroup<T>(t, sum0, sum1, sum2, sum3);
    } else storeGroup<f32>(t, sum0, sum1, sum2, sum3);
  }
  return !narrows || areFinite<T>(magnitudes);
}

/** Every other value of two or three sources: their combination. `w` counts if `isThree`, `base` if `differs`. */
@inline function sumFew(
  u: v128,
  v: v128,
  w: v128,
  base: v128,
  factorU: v128,
  factorV: v128,
  factorW: v128,
  multipliers: v128,
  zero: v128,
  differs: bool,
  isThree: bool,
): v128 {
  const first = f32x4.add(zero, f32x4.mul(differs ? f32x4.sub(u, base) : u, factorU));
  const second = f32x4.add(first, f32x4.mul(differs ? f32x4.sub(v, base) : v, factorV));
  const sum = isThree ? f32x4.add(second, f32x4.mul(differs ? f32x4.sub(w, base) : w, factorW)) : second;
  return differs ? f32x4.add(base, f32x4.mul(sum, multipliers)) : sum;
}

/**
 * combineOf, narrowing, for two or three sources of BF16 and no divisor: the usual case, in fewer instructions, its
 * constants in registers.
 */
@inline function combineFew(offset: usize, target: usize, count: i32, differs: bool, isThree: bool): bool {
  const b = baseAddress();
  const u = <usize>load<u32>(TABLE);
  const v = <usize>load<u32>(TABLE, 8);
  const w = isThree ? <usize>load<u32>(TABLE, 16) : v;
  const fu = v128.load32_splat(TABLE, 4);
  const fv = v128.load32_splat(TABLE, 12);
  const fw = isThree ? v128.load32_splat(TABLE, 20) : fv;
  const by = f32x4.splat(multiplier());
  const zero = floatZero();
  const uppers = upperHalves();
  const half = bf16Half();
  const one = integerOne();
  let largest = i16x8.splat(0);
  const end = offset + (<usize>((count + 15) >> 4) << 5);
  for (let t = target; offset < end; offset += 32, t += 32) {
    for (let at: usize = 0; at < 32; at += 16) {
      const us = v128.load(u + offset + at);
      const vs = v128.load(v + offset + at);
      const ws = isThree ? v128.load(w + offset + at) : vs;
      const bs = differs ? v128.load(b + offset + at) : us;
      const uo = odd(us, uppers);
      const vo = odd(vs, uppers);
      const wo = odd(ws, uppers);
      const bo = odd(bs, uppers);
      const evens = sumFew(even(us), even(vs), even(ws), even(bs), fu, fv, fw, by, zero, differs, isThree);
      const odds = sumFew(uo, vo, wo, bo, fu, fv, fw, by, zero, differs, isThree);
      const eight = joinBF16(evens, odds, half, one);
      v128.store(t + at, eight);
      largest = addLargest(largest, eight);
    }
  }
  return isLargestFinite(largest);
}

/** combineOf, narrowing. */
@inline function narrowChunk<T>(offset: usize, target: usize, count: i32, differs: bool): bool {
  const n = sourceCount();
  if (isBF16<T>() && n == 2 && divisor() == 1) return combineFew(offset, target, count, differs, false);
  if (isBF16<T>() && n == 3 && divisor() == 1) return combineFew(offset, target, count, differs, true);
  return combineOf<T>(offset, target, count, differs, true);
}

@inline function combineWide<T>(target: usize, count: i32): void {
  if (baseAddress() == 0) combineOf<T>(0, target, count, false, false);
  else combineOf<T>(0, target, count, true, false);
}

/** Differences to the base are combined where there is one, else the sources. */
export function combine(dtype: i32, target: usize, count: i32): void {
  if (dtype == 0) combineWide<u16>(target, count);
  else if (dtype == 1) combineWide<i16>(target, count);
  else combineWide<f32>(target, count);
}

@inline function combineNarrow<T>(target: usize, count: i32, differs: bool): i32 {
  let nonFinite = 0;
  for (let done = 0; done < count; done += CHUNK) {
    const offset = <usize>done * sizeof<T>();
    const now = min(CHUNK, count - done);
    if (narrowChunk<T>(offset, target + offset, now, differs)) continue;
    combineOf<T>(offset, WIDE, now, differs, false);
    nonFinite += narrowAgain<T>(target + offset, now);
  }
  return nonFinite;
}

@inline function combineStoredOf<T>(target: usize, count: i32): i32 {
  return baseAddress() == 0 ? combineNarrow<T>(target, count, false) : combineNarrow<T>(target, count, true);
}

/** The same, narrowed; returns how many of the `count` values are not finite. */
export function combineStored(dtype: i32, target: usize, count: i32): i32 {
  if (dtype == 0) return combineStoredOf<u16>(target, count);
  if (dtype == 1) return combineStoredOf<i16>(target, count);
  return combineStoredOf<f32>(target, count);
}
