// core/schemes/k-signed.ts: Q3_K and Q6_K, with and without an importance matrix. Codes of a super-block are chosen in
// their own order once the scales of its sub-blocks are known.
import { packHighBits, packPairs } from "./quant-k-affine";
import {
  L,
  nearInt,
  signedExtreme,
  storeHalf,
  sumOfSquares,
  toLanes,
  W,
  weighByImportance,
  weighBySquare,
  X,
} from "./quant-lanes";
import { ZERO_BELOW } from "./quant-positive";
import { descendSigned, searchSigned, SIGNED, SIGNED_INVERSE, SIGNED_ZERO, signedCodes16 } from "./quant-signed";

/** Of the sixteen sub-blocks of one super-block. */
const SCALES: usize = memory.data(64, 16);
const INVERSES: usize = memory.data(64, 16);
const ZEROS: usize = memory.data(64, 16);
const SUMS: usize = memory.data(64, 16);
const SCALE_CODES: usize = memory.data(16, 16);
/** Codes with their offset; before that, those of the search where the scale may round to nothing. */
const CODES: usize = memory.data(256, 16);

/** Codes for the scales as they are stored; a sub-block without a scale keeps those of the search. */
@inline function chooseCodes(source: usize, d: f32, half: i32, keepsDescent: bool): void {
  for (let j: usize = 0; j < 16; j++) {
    const s = source + (j << 6);
    const step = d * <f32>load<i8>(SCALE_CODES + j);
    if (step != 0) {
      v128.store(CODES + (j << 4), signedCodes16(s, f32x4.splat(step), true, half));
    } else if (load<i32>(ZEROS + (j << 2)) != 0) {
      v128.store(CODES + (j << 4), i8x16.splat(0));
    } else if (!keepsDescent) {
      v128.store(CODES + (j << 4), signedCodes16(s, v128.load_splat<u32>(INVERSES + (j << 2)), false, half));
    }
  }
}

/** Codes of a descent, four sub-blocks from `j` on, to CODES in their own order. */
function storeDescent(j: usize, half: i32): void {
  for (let i: usize = 0; i < 16; i++) {
    for (let lane: usize = 0; lane < 4; lane++) {
      store<u8>(CODES + ((j + lane) << 4) + i, <u8>(<i32>load<f32>(L + (i << 4) + (lane << 2)) + half));
    }
  }
}

/** Scales of the sub-blocks of Q3_K and their codes; returns the real d. */
function scaleQ3(): f32 {
  const extreme = signedExtreme(SCALES, 16);
  memory.fill(SCALE_CODES, <u8>-32, 16);
  if (extreme == 0) return 0;
  const inverse: f32 = -32 / extreme;
  for (let j: usize = 0; j < 16; j++) {
    store<i8>(SCALE_CODES + j, <i8>max(min(nearInt(inverse * load<f32>(SCALES + (j << 2))), 31), -32));
  }
  return 1 / inverse;
}

/** The same under the sums of weights; NaN when the oracle must do it. */
function scaleWeightedQ3(): f32 {
  // The sixteen scales are one block: it stands in all four lanes.
  toLanes(SCALES, 0, X, 16);
  toLanes(SUMS, 0, W, 16);
  if (searchSigned(16, 32)) return NaN;
  const isZero = load<i32>(SIGNED_ZERO) != 0;
  const inverse = load<f32>(SIGNED_INVERSE);
  for (let j: usize = 0; j < 16; j++) {
    const code = isZero ? -32 : max(min(nearInt(inverse * load<f32>(SCALES + (j << 2))), 31), -32);
    store<i8>(SCALE_CODES + j, <i8>code);
  }
  return load<f32>(SIGNED);
}

/** Searches the sixteen sub-blocks at `source`; returns 1 when the oracle must do it. */
@inline function searchSubBlocks(source: usize, importance: usize, nmax: i32, isSixBits: bool): i32 {
  const sigma2 = f32x4.splat(isSixBits || importance == 0 ? 0 : sumOfSquares(source, 256) / 128);
  for (let j: usize = 0; j < 16; j += 4) {
    const at = j << 6;
    toLanes(source + at, 64, X, 16);
    let failed: i32;
    if (importance == 0) {
      weighBySquare(16);
      failed = isSixBits ? searchSigned(16, <f32>nmax) : descendSigned(16, nmax);
      if (!isSixBits && !failed) storeDescent(j, nmax);
    } else {
      if (isSixBits) toLanes(importance + at, 64, W, 16);
      else v128.store(SUMS + (j << 2), weighByImportance(importance + at, 64, sigma2, 16));
      failed = searchSigned(16, <f32>nmax);
    }
    if (failed) return 1;
    v128.store(SCALES + (j << 2), v128.load(SIGNED));
    v128.store(INVERSES + (j << 2), v128.load(SIGNED_INVERSE));
    v128.store(ZEROS + (j << 2), v128.load(SIGNED_ZERO));
  }
  return 0;
}

/** Sixteen 6-bit scale codes in twelve bytes. */
@inline function packSixBits(t: usize): void {
  for (let j: usize = 0; j < 8; j++) {
    const low = load<i8>(SCALE_CODES + j) + 32;
    const high = load<i8>(SCALE_CODES + j, 8) + 32;
    store<u8>(t + j, <u8>((low & 15) | ((high & 15) << 4)));
  }
  for (let j: usize = 0; j < 4; j++) {
    const a = <u8>(load<i8>(SCALE_CODES + j) + 32) >> 4;
    const b = <u8>(load<i8>(SCALE_CODES + j, 4) + 32) >> 4;
    const c = <u8>(load<i8>(SCALE_CODES + j, 8) + 32) >> 4;
    const d = <u8>(load<i8>(SCALE_CODES + j, 12) + 32) >> 4;
    store<u8>(t + j, a | (b << 2) | (c << 4) | (d << 6), 8);
  }
}

export function quantizeQ3_K(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  let t = target;
  for (let block: usize = 0; block < <usize>blocks; block++, t += 110) {
    const s = source + (block << 10);
    if (searchSubBlocks(s, importance == 0 ? 0 : importance + (block << 10), 4, false)) return 1;
    const d = importance == 0 ? scaleQ3() : scaleWeightedQ3();
    if (d != d) return 1;
    chooseCodes(s, storeHalf(t + 108, d), 4, importance == 0);
    packHighBits(CODES, 2, t);
    packPairs(CODES, t + 32);
    packSixBits(t + 96);
  }
  return 0;
}

/** Low four bits of 128 codes in 64 bytes, upper two in 32; for each half. */
@inline function packQ6(t: usize): void {
  const low = i8x16.splat(15);
  for (let h: usize = 0; h < 4; h++) {
    const at = CODES + ((h >> 1) << 7) + ((h & 1) << 4);
    const a = v128.load(at);
    const b = v128.load(at, 32);
    const c = v128.load(at, 64);
    const d = v128.load(at, 96);
    const nibbles = t + ((h >> 1) << 6) + ((h & 1) << 4);
    v128.store(nibbles, v128.or(v128.and(a, low), i8x16.shl(c, 4)));
    v128.store(nibbles, v128.or(v128.and(b, low), i8x16.shl(d, 4)), 32);
    const ab = v128.or(i8x16.shr_u(a, 4), i8x16.shl(i8x16.shr_u(b, 4), 2));
    const cd = v128.or(i8x16.shl(i8x16.shr_u(c, 4), 4), i8x16.shl(i8x16.shr_u(d, 4), 6));
    v128.store(t + 128 + (h << 4), v128.or(ab, cd));
  }
  v128.store(t + 192, v128.load(SCALE_CODES));
}

export function quantizeQ6_K(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  let t = target;
  for (let block: usize = 0; block < <usize>blocks; block++, t += 210) {
    const s = source + (block << 10);
    if (searchSubBlocks(s, importance == 0 ? 0 : importance + (block << 10), 32, true)) return 1;
    const extreme = signedExtreme(SCALES, 16);
    if (abs(extreme) < ZERO_BELOW) {
      memory.fill(t, 0, 210);
      continue;
    }
    const inverse: f32 = -128 / extreme;
    for (let j: usize = 0; j < 16; j++) {
      store<i8>(SCALE_CODES + j, <i8>min(127, nearInt(inverse * load<f32>(SCALES + (j << 2)))));
    }
    chooseCodes(s, storeHalf(t + 208, 1 / inverse), 32, false);
    packQ6(t);
  }
  return 0;
}
