// core/schemes: the values of blocks. Codes become signed bytes, sixteen at a time, and those float32 under a step and
// an offset; what the oracle subtracts is added negated, which gives the same bits.
import { mxStep, nvStep } from "./quant-fp4";
import { ENTRIES } from "./quant-iq4";
import { loadHalf } from "./quant-lanes";

/** Four values from bits of integers: step code, or step code + offset. */
@inline function emit4(target: usize, codes: v128, step: v128, isAffine: bool, offset: v128): void {
  const product = f32x4.mul(f32x4.convert_i32x4_s(codes), step);
  v128.store(target, isAffine ? f32x4.add(product, offset) : product);
}

@inline function emit16(target: usize, codes: v128, step: v128, isAffine: bool, offset: v128): void {
  const low = i16x8.extend_low_i8x16_s(codes);
  const high = i16x8.extend_high_i8x16_s(codes);
  emit4(target, i32x4.extend_low_i16x8_s(low), step, isAffine, offset);
  emit4(target + 16, i32x4.extend_high_i16x8_s(low), step, isAffine, offset);
  emit4(target + 32, i32x4.extend_low_i16x8_s(high), step, isAffine, offset);
  emit4(target + 48, i32x4.extend_high_i16x8_s(high), step, isAffine, offset);
}

@inline function lowNibbles(bytes: v128): v128 {
  return v128.and(bytes, i8x16.splat(15));
}

@inline function highNibbles(bytes: v128): v128 {
  return i8x16.shr_u(bytes, 4);
}

export function dequantizeQ8_0(source: usize, target: usize, blocks: i32): void {
  let t = target;
  let s = source;
  const none = f32x4.splat(0);
  for (let block = 0; block < blocks; block++, s += 34, t += 128) {
    const d = f32x4.splat(loadHalf(s));
    emit16(t, v128.load(s, 2), d, false, none);
    emit16(t + 64, v128.load(s, 18), d, false, none);
  }
}

/** 0x10 in byte i where bit i of the word's sixteen bits is set. */
@inline function fifthBits(word: u32): v128 {
  const spread = i8x16.swizzle(i16x8.splat(<i16>word), v128(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  const bit = v128(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
  return v128.and(i8x16.eq(v128.and(spread, bit), bit), i8x16.splat(16));
}

@inline function blocks32(source: usize, target: usize, blocks: i32, bits: i32, isAffine: bool): void {
  const at: usize = (isAffine ? 4 : 2) + (bits == 5 ? 4 : 0);
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += at + 16, t += 128) {
    const bytes = v128.load(s + at);
    let a = lowNibbles(bytes);
    let b = highNibbles(bytes);
    if (bits == 5) {
      const word = load<u32>(s + at - 4);
      a = v128.or(a, fifthBits(word));
      b = v128.or(b, fifthBits(word >> 16));
    }
    const d = f32x4.splat(loadHalf(s));
    const m = f32x4.splat(isAffine ? loadHalf(s + 2) : 0);
    const origin: i32 = isAffine ? 0 : 1 << (bits - 1);
    const half = i8x16.splat(<i8>origin);
    emit16(t, i8x16.sub(a, half), d, isAffine, m);
    emit16(t + 64, i8x16.sub(b, half), d, isAffine, m);
  }
}

export function dequantizeQ4_0(source: usize, target: usize, blocks: i32): void {
  blocks32(source, target, blocks, 4, false);
}
export function dequantizeQ4_1(source: usize, target: usize, blocks: i32): void {
  blocks32(source, target, blocks, 4, true);
}
export function dequantizeQ5_0(source: usize, target: usize, blocks: i32): void {
  blocks32(source, target, blocks, 5, false);
}
export function dequantizeQ5_1(source: usize, target: usize, blocks: i32): void {
  blocks32(source, target, blocks, 5, true);
}

/** Sixteen codes of two bits at `shift`. */
@inline function pairs(bytes: v128, shift: i32): v128 {
  return v128.and(i8x16.shr_u(bytes, shift), i8x16.splat(3));
}

export function dequantizeQ2_K(source: usize, target: usize, blocks: i32): void {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 84) {
    const d = loadHalf(s + 80);
    const dmin = loadHalf(s + 82);
    for (let j = 0; j < 16; j++, t += 64) {
      const both = <i32>load<u8>(s + <usize>j);
      const bytes = v128.load(s + 16 + (<usize>(j >> 3) << 5) + (<usize>(j & 1) << 4));
      const step = f32x4.splat(d * <f32>(both & 15));
      emit16(t, pairs(bytes, 2 * ((j >> 1) & 3)), step, true, f32x4.splat(-(dmin * <f32>(both >> 4))));
    }
  }
}

/** 6-bit scale and minimum of sub-block j from twelve bytes: minimum above scale, in sixteen bits. */
@inline export function sixBits(s: usize, j: i32): i32 {
  if (j < 4) return (<i32>load<u8>(s + <usize>j) & 63) | ((<i32>load<u8>(s + <usize>j, 4) & 63) << 8);
  const low = <i32>load<u8>(s + <usize>j, 4);
  const scale = (low & 15) | ((<i32>load<u8>(s + <usize>(j - 4)) >> 6) << 4);
  const minimum = (low >> 4) | ((<i32>load<u8>(s + <usize>j) >> 6) << 4);
  return scale | (minimum << 8);
}

@inline function dequantizeK45(source: usize, target: usize, blocks: i32, hasFifth: bool): void {
  let t = target;
  let s = source;
  const nibbles: usize = hasFifth ? 48 : 16;
  for (let block = 0; block < blocks; block++, s += nibbles + 128) {
    const d = loadHalf(s);
    const dmin = loadHalf(s + 2);
    for (let j = 0; j < 8; j++) {
      const both = sixBits(s + 4, j);
      const step = f32x4.splat(d * <f32>(both & 63));
      const offset = f32x4.splat(-(dmin * <f32>(both >> 8)));
      for (let h: usize = 0; h < 32; h += 16, t += 64) {
        const bytes = v128.load(s + nibbles + (<usize>(j >> 1) << 5) + h);
        let codes = j & 1 ? highNibbles(bytes) : lowNibbles(bytes);
        if (hasFifth) {
          const high = v128.and(i8x16.shr_u(v128.load(s + 16 + h), j), i8x16.splat(1));
          codes = v128.or(codes, i8x16.shl(high, 4));
        }
        emit16(t, codes, step, true, offset);
      }
    }
  }
}

export function dequantizeQ4_K(source: usize, target: usize, blocks: i32): void {
  dequantizeK45(source, target, blocks, false);
}
export function dequantizeQ5_K(source: usize, target: usize, blocks: i32): void {
  dequantizeK45(source, target, blocks, true);
}

/** Signed scale of sub-block j of the block at `s`. */
@inline export function scaleQ3(s: usize, j: i32): i32 {
  const low = (<i32>load<u8>(s + 96 + <usize>(j & 7)) >> (j < 8 ? 0 : 4)) & 15;
  const high = (<i32>load<u8>(s + 104 + <usize>(j & 3)) >> (2 * (j >> 2))) & 3;
  return (low | (high << 4)) - 32;
}

export function dequantizeQ3_K(source: usize, target: usize, blocks: i32): void {
  const none = f32x4.splat(0);
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 110) {
    const d = loadHalf(s + 108);
    for (let j = 0; j < 16; j++, t += 64) {
      const step = f32x4.splat(d * <f32>scaleQ3(s, j));
      const half: usize = <usize>(j & 1) << 4;
      const two = pairs(v128.load(s + 32 + (<usize>(j >> 3) << 5) + half), 2 * ((j >> 1) & 3));
      const third = v128.and(i8x16.shr_u(v128.load(s + half), j >> 1), i8x16.splat(1));
      const codes = v128.or(two, i8x16.shl(third, 2));
      emit16(t, i8x16.sub(codes, i8x16.splat(4)), step, false, none);
    }
  }
}

export function dequantizeQ6_K(source: usize, target: usize, blocks: i32): void {
  const none = f32x4.splat(0);
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 210) {
    const d = loadHalf(s + 208);
    for (let j = 0; j < 16; j++, t += 64) {
      const half = <usize>(j >> 3);
      const part = (j >> 1) & 3;
      const h = <usize>(j & 1) << 4;
      const bytes = v128.load(s + (half << 6) + (<usize>(part & 1) << 5) + h);
      const low = part < 2 ? lowNibbles(bytes) : highNibbles(bytes);
      const high = pairs(v128.load(s + 128 + (half << 5) + h), 2 * part);
      const codes = i8x16.sub(v128.or(low, i8x16.shl(high, 4)), i8x16.splat(32));
      emit16(t, codes, f32x4.splat(d * <f32>load<i8>(s + 192 + <usize>j)), false, none);
    }
  }
}

/** 32 values of a table of sixteen under a step: low nibbles are the first half. */
@inline function emitEntries(entries: usize, s: usize, t: usize, step: f32): void {
  const none = f32x4.splat(0);
  const table = v128.load(entries);
  const bytes = v128.load(s);
  emit16(t, i8x16.swizzle(table, lowNibbles(bytes)), f32x4.splat(step), false, none);
  emit16(t + 64, i8x16.swizzle(table, highNibbles(bytes)), f32x4.splat(step), false, none);
}

export function dequantizeIQ4_NL(source: usize, target: usize, blocks: i32): void {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 18, t += 128) emitEntries(ENTRIES, s + 2, t, loadHalf(s));
}

/** Signed scale of sub-block j of the block at `s`. */
@inline export function scaleXS(s: usize, j: i32): i32 {
  const low = (load<u32>(s, 4) >> (4 * j)) & 15;
  const high = (<u32>load<u16>(s, 2) >> (2 * j)) & 3;
  return <i32>(low | (high << 4)) - 32;
}

export function dequantizeIQ4_XS(source: usize, target: usize, blocks: i32): void {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 136) {
    const d = loadHalf(s);
    for (let j = 0; j < 8; j++, t += 128) {
      emitEntries(ENTRIES, s + 8 + (<usize>j << 4), t, d * <f32>scaleXS(s, j));
    }
  }
}

/** Twice the values of E2M1, by code. */
const DOUBLES: usize = memory.data<i8>([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]);

export function dequantizeMXFP4(source: usize, target: usize, blocks: i32): void {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 17, t += 128) {
    emitEntries(DOUBLES, s + 1, t, mxStep(<i32>load<u8>(s)));
  }
}

export function dequantizeNVFP4(source: usize, target: usize, blocks: i32): void {
  const none = f32x4.splat(0);
  const table = v128.load(DOUBLES);
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 36) {
    for (let j: usize = 0; j < 4; j++, t += 64) {
      const bytes = v128.load64_zero(s + 4 + (j << 3));
      const codes = v128.or(lowNibbles(bytes), v128.shuffle<u64>(bytes, highNibbles(bytes), 1, 2));
      emit16(t, i8x16.swizzle(table, codes), f32x4.splat(nvStep(<i32>load<u8>(s + j))), false, none);
    }
  }
}

/** Five digits of sixteen fractions of 3^5, less one: each is what a product with three has above eight bits. */
@inline function emitDigits(fractions: v128, t: usize, width: usize, d: v128): void {
  let rest = fractions;
  for (let digit: usize = 0; digit < 5; digit++) {
    emit16(t + ((width * digit) << 2), nextDigit(rest), d, false, f32x4.splat(0));
    rest = i8x16.add(i8x16.add(rest, rest), rest);
  }
}

@inline function nextDigit(rest: v128): v128 {
  const beyond = i8x16.add(i8x16.ge_u(rest, i8x16.splat(86)), i8x16.ge_u(rest, i8x16.splat(<i8>171)));
  return i8x16.sub(i8x16.splat(-1), beyond);
}

export function dequantizeTQ1_0(source: usize, target: usize, blocks: i32): void {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 54, t += 1024) {
    const d = f32x4.splat(loadHalf(s + 52));
    emitDigits(v128.load(s), t, 32, d);
    emitDigits(v128.load(s, 16), t + 64, 32, d);
    emitDigits(v128.load(s, 32), t + 640, 16, d);
    let rest = v128.load32_zero(s + 48);
    for (let digit: usize = 0; digit < 4; digit++) {
      const codes = i16x8.extend_low_i8x16_s(nextDigit(rest));
      emit4(t + 960 + (digit << 4), i32x4.extend_low_i16x8_s(codes), d, false, d);
      rest = i8x16.add(i8x16.add(rest, rest), rest);
    }
  }
}

export function dequantizeTQ2_0(source: usize, target: usize, blocks: i32): void {
  const none = f32x4.splat(0);
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 66) {
    const d = f32x4.splat(loadHalf(s + 64));
    for (let j = 0; j < 16; j++, t += 64) {
      const bytes = v128.load(s + (<usize>(j >> 3) << 5) + (<usize>(j & 1) << 4));
      emit16(t, i8x16.sub(pairs(bytes, 2 * ((j >> 1) & 3)), i8x16.splat(1)), d, false, none);
    }
  }
}

export function dequantizeQ1_0(source: usize, target: usize, blocks: i32): void {
  const bits = i32x4(1, 2, 4, 8);
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 18) {
    const d = f32x4.splat(loadHalf(s));
    const minus = f32x4.neg(d);
    for (let i: usize = 0; i < 32; i++, t += 16) {
      const nibble = i32x4.splat(<i32>load<u8>(s + 2 + (i >> 1)) >> (<i32>(i & 1) << 2));
      v128.store(t, v128.bitselect(d, minus, i32x4.eq(v128.and(nibble, bits), bits)));
    }
  }
}
