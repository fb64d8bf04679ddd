// core/schemes/k-affine.ts: Q2_K, Q4_K and Q5_K, with and without an importance matrix. Codes of a super-block are chosen
// in their own order, four at a time, once the scales of its sub-blocks are known.
import {
  FOUND,
  FOUND_INVERSE,
  FOUND_MINIMUM,
  FOUND_ORIGIN,
  foundCodes16,
  searchAffine,
  searchAffineAbsolute,
  searchAffineWeighted,
} from "./quant-affine";
import {
  nearInt,
  nearInts,
  storeHalf,
  sumOfSquares,
  toBytes,
  toLanes,
  W,
  weighByImportance,
  X,
} from "./quant-lanes";
import { searchPositive } from "./quant-positive";

/** Of the sub-blocks of one super-block, up to sixteen: what FOUND has, sums of weights, and codes. */
const SCALES: usize = memory.data(64, 16);
const MINIMA: usize = memory.data(64, 16);
const INVERSES: usize = memory.data(64, 16);
const ORIGINS: usize = memory.data(64, 16);
const SUMS: usize = memory.data(64, 16);
const SCALE_CODES: usize = memory.data(16, 16);
const MINIMUM_CODES: usize = memory.data(16, 16);
const CODES: usize = memory.data(256, 16);

/** w = |x|. */
function weighByMagnitude(): void {
  for (let i: usize = 0; i < 256; i += 16) v128.store(W + i, f32x4.abs(v128.load(X + i)));
}

/** w = rms of the sub-block + |x|. */
function weighByRms(): void {
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < 512; i += 16) {
    const x = v128.load(X + i);
    sum = f32x4.add(sum, f32x4.mul(x, x));
  }
  const rms = f32x4.sqrt(f32x4.div(sum, f32x4.splat(32)));
  for (let i: usize = 0; i < 512; i += 16) v128.store(W + i, f32x4.add(rms, f32x4.abs(v128.load(X + i))));
}

/** Rounds values to codes by their largest; returns the common scale. */
function roundByLargest(values: usize, count: i32, most: i32, codes: usize): f32 {
  let largest: f32 = 0;
  for (let j: usize = 0; j < <usize>count; j++) {
    if (load<f32>(values + (j << 2)) > largest) largest = load<f32>(values + (j << 2));
  }
  const inverse: f32 = largest > 0 ? <f32>most / largest : 0;
  for (let j: usize = 0; j < <usize>count; j++) {
    store<u8>(codes + j, <u8>min(most, nearInt(inverse * load<f32>(values + (j << 2)))));
  }
  return largest / <f32>most;
}

/** Sixteen codes from `s`, through near((x + offset) / step). */
@inline function codes16(s: usize, offset: v128, step: v128, most: v128): v128 {
  const zero = i32x4.splat(0);
  return toBytes(
    nearInts(f32x4.div(f32x4.add(v128.load(s), offset), step), zero, most),
    nearInts(f32x4.div(f32x4.add(v128.load(s, 16), offset), step), zero, most),
    nearInts(f32x4.div(f32x4.add(v128.load(s, 32), offset), step), zero, most),
    nearInts(f32x4.div(f32x4.add(v128.load(s, 48), offset), step), zero, most),
  );
}

/** Codes of the super-block at `source`, for the scales as they are stored. */
@inline function chooseCodes(source: usize, sub: i32, nmax: i32, d: f32, dmin: f32): void {
  const most = i32x4.splat(nmax);
  const runs = sub >> 4;
  for (let run = 0; run < 16; run++) {
    const j = <usize>(run / runs);
    const s = source + (<usize>run << 6);
    const step = d * <f32>load<u8>(SCALE_CODES + j);
    let codes: v128;
    if (step == 0) {
      const inverse = v128.load_splat<u32>(INVERSES + (j << 2));
      codes = foundCodes16(s, inverse, v128.load_splat<u32>(ORIGINS + (j << 2)), most);
    } else {
      const offset = dmin * <f32>load<u8>(MINIMUM_CODES + j);
      codes = codes16(s, f32x4.splat(offset), f32x4.splat(step), most);
    }
    v128.store(CODES + (<usize>run << 4), codes);
  }
}

/** Finds and rounds the scales and minima of the super-block at `source`; returns 1 when the oracle must do it. */
@inline function findScales(
  source: usize,
  importance: usize,
  sub: i32,
  nmax: i32,
  scaleMax: i32,
  d: usize,
): i32 {
  const count = 256 / sub;
  const stride = <usize>sub << 2;
  // Twice the mean of 256 for sub-blocks of 32, once for those of 16.
  const sigma2 = f32x4.splat(importance == 0 ? 0 : sumOfSquares(source, 256) / (sub == 32 ? 128 : 256));
  for (let j: usize = 0; j < <usize>count; j += 4) {
    const at = j * stride;
    toLanes(source + at, stride, X, sub);
    let failed: i32;
    if (importance != 0) {
      v128.store(SUMS + (j << 2), weighByImportance(importance + at, stride, sigma2, sub));
      failed = searchAffineWeighted(sub, <f32>nmax);
    } else if (sub == 16) {
      weighByMagnitude();
      failed = searchAffineAbsolute(16, <f32>nmax, -0.5, 0.1, 15);
    } else {
      weighByRms();
      failed = searchAffine(32, <f32>nmax, nmax == 15 ? -1 : -0.5, 0.1, nmax == 15 ? 20 : 15);
    }
    if (failed) return 1;
    v128.store(SCALES + (j << 2), v128.load(FOUND));
    v128.store(MINIMA + (j << 2), v128.load(FOUND_MINIMUM));
    v128.store(INVERSES + (j << 2), v128.load(FOUND_INVERSE));
    v128.store(ORIGINS + (j << 2), v128.load(FOUND_ORIGIN));
  }
  let scale: f32;
  let minimum: f32;
  if (importance != 0) {
    scale = searchPositive(count, scaleMax, SCALES, SUMS, SCALE_CODES);
    minimum = searchPositive(count, scaleMax, MINIMA, SUMS, MINIMUM_CODES);
  } else {
    scale = roundByLargest(SCALES, count, scaleMax, SCALE_CODES);
    minimum = roundByLargest(MINIMA, count, scaleMax, MINIMUM_CODES);
  }
  chooseCodes(source, sub, nmax, storeHalf(d, scale), storeHalf(d + 2, minimum));
  return 0;
}

/** Eight 6-bit scales and minima in twelve bytes. */
@inline function packSixBits(t: usize): void {
  for (let j: usize = 0; j < 4; j++) {
    const scale = load<u8>(SCALE_CODES + j, 4);
    const minimum = load<u8>(MINIMUM_CODES + j, 4);
    store<u8>(t + j, load<u8>(SCALE_CODES + j) | ((scale >> 4) << 6));
    store<u8>(t + j, load<u8>(MINIMUM_CODES + j) | ((minimum >> 4) << 6), 4);
    store<u8>(t + j, (scale & 15) | ((minimum & 15) << 4), 8);
  }
}

/** 64 codes in 32 bytes: low nibbles are the first 32, high nibbles the next. */
@inline function packNibbles(t: usize): void {
  const low = i8x16.splat(15);
  for (let c: usize = 0; c < 4; c++) {
    const at = CODES + (c << 6);
    for (let h: usize = 0; h < 32; h += 16) {
      const first = v128.and(v128.load(at + h), low);
      v128.store(t + (c << 5) + h, v128.or(first, i8x16.shl(v128.load(at + h, 32), 4)));
    }
  }
}

/** Low two bits of 256 codes in 64 bytes. */
@inline export function packPairs(codes: usize, t: usize): void {
  const low = i8x16.splat(3);
  for (let h: usize = 0; h < 4; h++) {
    const at = codes + ((h >> 1) << 7) + ((h & 1) << 4);
    let bits = v128.and(v128.load(at), low);
    bits = v128.or(bits, i8x16.shl(v128.and(v128.load(at, 32), low), 2));
    bits = v128.or(bits, i8x16.shl(v128.and(v128.load(at, 64), low), 4));
    bits = v128.or(bits, i8x16.shl(v128.load(at, 96), 6));
    v128.store(t + (h << 4), bits);
  }
}

/** Bit `bit` of 256 codes in 32 bytes: bit k of byte l is that of code 32 k + l. */
@inline export function packHighBits(codes: usize, bit: i32, t: usize): void {
  const one = i8x16.splat(1);
  for (let h: usize = 0; h < 32; h += 16) {
    let bits = i8x16.splat(0);
    for (let k = 0; k < 8; k++) {
      const high = v128.and(i8x16.shr_u(v128.load(codes + h + (<usize>k << 5)), bit), one);
      bits = v128.or(bits, i8x16.shl(high, k));
    }
    v128.store(t + h, bits);
  }
}

export function quantizeQ2_K(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  let t = target;
  for (let block: usize = 0; block < <usize>blocks; block++, t += 84) {
    const at = block << 10;
    if (findScales(source + at, importance == 0 ? 0 : importance + at, 16, 3, 15, t + 80)) return 1;
    v128.store(t, v128.or(v128.load(SCALE_CODES), i8x16.shl(v128.load(MINIMUM_CODES), 4)));
    packPairs(CODES, t + 16);
  }
  return 0;
}

export function quantizeQ4_K(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  let t = target;
  for (let block: usize = 0; block < <usize>blocks; block++, t += 144) {
    const at = block << 10;
    if (findScales(source + at, importance == 0 ? 0 : importance + at, 32, 15, 63, t)) return 1;
    packSixBits(t + 4);
    packNibbles(t + 16);
  }
  return 0;
}

export function quantizeQ5_K(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  let t = target;
  for (let block: usize = 0; block < <usize>blocks; block++, t += 176) {
    const at = block << 10;
    if (findScales(source + at, importance == 0 ? 0 : importance + at, 32, 31, 63, t)) return 1;
    packSixBits(t + 4);
    packHighBits(CODES, 4, t + 16);
    packNibbles(t + 48);
  }
  return 0;
}
