// core/schemes/fp4.ts: MXFP4 and NVFP4 as GGUF blocks; and the codes of 4-bit floats for whoever else stores them. A code
// is how many limits between the eight magnitudes a value is beyond. Nearest is that, as no difference near a limit is
// inexact.
import { maxOfLanes } from "./quant-lanes";
import { pack32 } from "./quant-simple";

/** The seven limits, a vector each, in the unit of the values that are coded. */
const LIMITS: usize = memory.data(112, 16);

/** Sets the limits for magnitudes of 0, 1, 2, 3, 4, 6, 8 and 12 steps. */
export function setFp4Step(step: f32): void {
  v128.store(LIMITS, f32x4.splat(0.5 * step));
  v128.store(LIMITS, f32x4.splat(1.5 * step), 16);
  v128.store(LIMITS, f32x4.splat(2.5 * step), 32);
  v128.store(LIMITS, f32x4.splat(3.5 * step), 48);
  v128.store(LIMITS, f32x4.splat(5 * step), 64);
  v128.store(LIMITS, f32x4.splat(7 * step), 80);
  v128.store(LIMITS, f32x4.splat(10 * step), 96);
}

/** Limits passed, negated. What lies on a limit takes the lower magnitude, or the one whose code is even. */
@inline function passed(x: v128, toEven: bool): v128 {
  const size = f32x4.abs(x);
  const second = v128.load(LIMITS, 16);
  const fourth = v128.load(LIMITS, 48);
  const sixth = v128.load(LIMITS, 80);
  const low = i32x4.add(
    f32x4.gt(size, v128.load(LIMITS)),
    toEven ? f32x4.ge(size, second) : f32x4.gt(size, second),
  );
  const middle = i32x4.add(
    f32x4.gt(size, v128.load(LIMITS, 32)),
    toEven ? f32x4.ge(size, fourth) : f32x4.gt(size, fourth),
  );
  const high = i32x4.add(
    f32x4.gt(size, v128.load(LIMITS, 64)),
    toEven ? f32x4.ge(size, sixth) : f32x4.gt(size, sixth),
  );
  return i32x4.add(i32x4.add(low, middle), i32x4.add(high, f32x4.gt(size, v128.load(LIMITS, 96))));
}

@inline function narrow(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** Sixteen codes; a zero has a sign only where ties go to the even code. */
@inline export function fp4Codes(a: v128, b: v128, c: v128, d: v128, toEven: bool): v128 {
  const count = i8x16.neg(narrow(passed(a, toEven), passed(b, toEven), passed(c, toEven), passed(d, toEven)));
  const isNegative = narrow(i32x4.shr_s(a, 31), i32x4.shr_s(b, 31), i32x4.shr_s(c, 31), i32x4.shr_s(d, 31));
  const sign = v128.and(isNegative, i8x16.splat(8));
  return v128.or(count, toEven ? sign : v128.and(sign, i8x16.ne(count, i8x16.splat(0))));
}

@inline function codes16(s: usize): v128 {
  return fp4Codes(v128.load(s), v128.load(s, 16), v128.load(s, 32), v128.load(s, 48), false);
}

/** max|x| of `count` values, a multiple of four. */
@inline export function largestOf(source: usize, count: i32): f32 {
  let most = f32x4.abs(v128.load(source));
  const end = source + (<usize>count << 2);
  for (let s = source + 16; s < end; s += 16) most = f32x4.pmax(most, f32x4.abs(v128.load(s)));
  return maxOfLanes(most);
}

/** 2^(e - 128). */
@inline export function mxStep(exponent: i32): f32 {
  return reinterpret<f32>(exponent > 1 ? (exponent - 1) << 23 : 0x200000 << exponent);
}

/** Just below a power of two its logarithm, rounded to float32, may be the whole number: the oracle takes such a row. */
const NEARLY_TWO: i32 = 0x7fff00;

export function quantizeMXFP4(source: usize, target: usize, blocks: i32): i32 {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 128, t += 17) {
    const bits = reinterpret<i32>(largestOf(s, 32));
    if ((bits & 0x7fffff) >= NEARLY_TWO) return 1;
    const exponent = max(0, (bits >> 23) - 2);
    store<u8>(t, <u8>exponent);
    setFp4Step(mxStep(exponent));
    pack32(t + 1, 4, codes16(s), codes16(s + 64));
  }
  return 0;
}

/** Unsigned E4M3 of a value >= 0, halves upward; what is below the normal numbers stays below them. */
@inline function encodeScale(value: f32): i32 {
  if (value > 448) return 0x7e;
  if (value < 0.015625) return min(7, <i32>floor(<f64>value * 512 + 0.5));
  const bits = reinterpret<i32>(value);
  const eighths = (((bits & 0x7fffff) | 0x800000) + 0x80000) >> 20;
  return min(0x7e, 8 * ((bits >> 23) - 121) + eighths);
}

/** Half the value of an unsigned E4M3. */
@inline export function nvStep(code: i32): f32 {
  if ((code & 0x7f) == 0x7f) return 0;
  const mantissa = code & 7;
  if (code < 8) return <f32>mantissa * 0.0009765625;
  // Subtracting 11 from the exponent, and 3 for the mantissa that counts in ones.
  return <f32>(mantissa + 8) * reinterpret<f32>(((code >> 3) + 116) << 23);
}

/** Beyond this many steps values swallow the steps: all codes are equally near, and the oracle knows which is first. */
const STEPS_MAX: f32 = 1048576;

export function quantizeNVFP4(source: usize, target: usize, blocks: i32): i32 {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, t += 36) {
    for (let j: usize = 0; j < 4; j++, s += 64) {
      const largest = largestOf(s, 16);
      const scale = encodeScale(largest / 6);
      const step = nvStep(scale);
      if (step != 0 && largest > step * STEPS_MAX) return 1;
      store<u8>(t + j, <u8>scale);
      // Without a step all codes are equally near, and the first is zero.
      setFp4Step(step == 0 ? Infinity : step);
      const codes = codes16(s);
      const upper = v128.shuffle<u64>(codes, codes, 1, 0);
      v128.store64_lane(t + 4 + (j << 3), v128.or(codes, i8x16.shl(upper, 4)), 0);
    }
  }
  return 0;
}
