// core/schemes/few-values.ts: TQ1_0, TQ2_0 and Q1_0.
import { largestOf } from "./quant-fp4";
import { packPairs } from "./quant-k-affine";
import { putHalf, toLanes } from "./quant-lanes";
import { isTame } from "./quant-simple";

/** Codes 0, 1 and 2 of 256 values. */
const TRITS: usize = memory.data(256, 16);

/** -1, 0 or 1: round(y) of |y| <= 1, halves away from zero. */
@inline function sign4(s: usize, inverse: v128): v128 {
  const y = f32x4.mul(v128.load(s), inverse);
  return i32x4.sub(f32x4.le(y, f32x4.splat(-0.5)), f32x4.ge(y, f32x4.splat(0.5)));
}

/** Codes of the block at `source` to TRITS under d = max|x|; 1 when the oracle must do it. */
@inline function chooseTrits(source: usize, d: f32): i32 {
  if (!isTame(d)) return 1;
  const inverse = f32x4.splat(d == 0 ? 0 : 1 / d);
  let s = source;
  for (let t = TRITS; t < TRITS + 256; t += 16, s += 64) {
    const low = i16x8.narrow_i32x4_s(sign4(s, inverse), sign4(s + 16, inverse));
    const high = i16x8.narrow_i32x4_s(sign4(s + 32, inverse), sign4(s + 48, inverse));
    v128.store(t, i8x16.add(i8x16.narrow_i16x8_s(low, high), i8x16.splat(1)));
  }
  return 0;
}

/** Sixteen numbers 3 n + digit. */
@inline function addDigit(numbers: v128, digits: usize): v128 {
  return i8x16.add(i8x16.add(numbers, numbers), i8x16.add(numbers, v128.load(digits)));
}

/**
 * n as a fraction of 3^5 in eight bits, upward: n + ceil(13 n / 243), the quotient as round((4 n + 36) 439 / 2^15),
 * which is the same for every n below 243.
 */
@inline function fraction8(numbers: v128): v128 {
  const shifted = i16x8.add(i16x8.shl(numbers, 2), i16x8.splat(36));
  return i16x8.add(numbers, i16x8.q15mulr_sat_s(shifted, i16x8.splat(439)));
}

@inline function fractions(numbers: v128): v128 {
  const low = fraction8(i16x8.extend_low_i8x16_u(numbers));
  return i8x16.narrow_i16x8_u(low, fraction8(i16x8.extend_high_i8x16_u(numbers)));
}

/** Five digits of sixteen numbers, `width` codes apart. */
@inline function fiveDigits(first: usize, width: usize): v128 {
  let numbers = v128.load(first);
  for (let digit: usize = 1; digit < 5; digit++) numbers = addDigit(numbers, first + width * digit);
  return fractions(numbers);
}

export function quantizeTQ1_0(source: usize, target: usize, blocks: i32): i32 {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 1024, t += 54) {
    const d = largestOf(s, 256);
    if (chooseTrits(s, d)) return 1;
    v128.store(t, fiveDigits(TRITS, 32));
    v128.store(t, fiveDigits(TRITS + 16, 32), 16);
    v128.store(t, fiveDigits(TRITS + 160, 16), 32);
    // The last sixteen codes are four digits of four numbers.
    let numbers = i8x16.splat(0);
    for (let digit: usize = 0; digit < 4; digit++) numbers = addDigit(numbers, TRITS + 240 + (digit << 2));
    v128.store32_lane(t, fractions(i8x16.add(i8x16.add(numbers, numbers), numbers)), 0, 48);
    putHalf(t + 52, d);
  }
  return 0;
}

export function quantizeTQ2_0(source: usize, target: usize, blocks: i32): i32 {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 1024, t += 66) {
    const d = largestOf(s, 256);
    if (chooseTrits(s, d)) return 1;
    packPairs(TRITS, t);
    putHalf(t + 64, d);
  }
  return 0;
}

/** Magnitudes of four blocks side by side, a quarter of each at a time, and their means. */
const QUARTERS: usize = memory.data(512, 16);
const MEANS: usize = memory.data(16, 16);

/** Sixteen signs; zero is plus. */
@inline function signs16(s: usize): u32 {
  const zero = f32x4.splat(0);
  const low = i16x8.narrow_i32x4_s(f32x4.ge(v128.load(s), zero), f32x4.ge(v128.load(s, 16), zero));
  const high = i16x8.narrow_i32x4_s(f32x4.ge(v128.load(s, 32), zero), f32x4.ge(v128.load(s, 48), zero));
  return i8x16.bitmask(i8x16.narrow_i16x8_s(low, high));
}

export function quantizeQ1_0(source: usize, target: usize, blocks: i32): i32 {
  let t = target;
  for (let block = 0; block < blocks; ) {
    const together: usize = blocks - block < 4 ? 1 : 4;
    const s = source + (<usize>block << 9);
    let sum = f32x4.splat(0);
    for (let quarter: usize = 0; quarter < 512; quarter += 128) {
      toLanes(s + quarter, together == 4 ? 512 : 0, QUARTERS, 32);
      for (let i: usize = 0; i < 512; i += 16) sum = f32x4.add(sum, f32x4.abs(v128.load(QUARTERS + i)));
    }
    v128.store(MEANS, f32x4.div(sum, f32x4.splat(128)));
    for (let k: usize = 0; k < together; k++, t += 18) {
      putHalf(t, load<f32>(MEANS + (k << 2)));
      for (let i: usize = 0; i < 8; i++) store<u16>(t + 2 + (i << 1), <u16>signs16(s + (k << 9) + (i << 6)));
    }
    block += <i32>together;
  }
  return 0;
}
