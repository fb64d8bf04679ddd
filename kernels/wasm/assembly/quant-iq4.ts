// core/schemes/iq4.ts: IQ4_NL and IQ4_XS, with and without an importance matrix. A value's entry is found by twice the
// value, rounded down: every limit between two entries is a multiple of a half, and no value near one is inexact.
import {
  nearInt,
  signedExtreme,
  putHalf,
  sumOfSquares,
  TAME_MAX,
  TAME_MIN,
  toInts,
  toLanes,
  W,
  weighByImportance,
  weighBySquare,
  X,
} from "./quant-lanes";
import { ZERO_BELOW } from "./quant-positive";

/** Entries of the table, and by twice a value plus 256: which entry, and its own value as float32. */
export const ENTRIES: usize = memory.data<i8>([
  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
]);
const ENTRY_OF: usize = memory.data(512, 16);
const VALUE_OF: usize = memory.data(2048, 16);
const READY: usize = memory.data(4, 4);

function fillTables(): void {
  for (let doubled = -256; doubled < 256; doubled++) {
    let entry: usize = 0;
    while (entry < 15 && doubled >= <i32>load<i8>(ENTRIES + entry) + <i32>load<i8>(ENTRIES + entry, 1)) entry++;
    store<u8>(ENTRY_OF + <usize>(doubled + 256), <u8>entry);
    store<f32>(VALUE_OF + (<usize>(doubled + 256) << 2), <f32>load<i8>(ENTRIES + entry));
  }
  store<i32>(READY, 1);
}

/** Places in the tables. */
@inline function placesOf(value: v128): v128 {
  const doubled = f32x4.pmax(f32x4.pmin(f32x4.add(value, value), f32x4.splat(255)), f32x4.splat(-256));
  return i32x4.add(toInts(f32x4.floor(doubled)), i32x4.splat(256));
}

/** Values of the nearest entries. */
@inline function valuesOf(value: v128): v128 {
  const places = i32x4.shl(placesOf(value), 2);
  let values = v128.load32_zero(VALUE_OF + <usize>i32x4.extract_lane(places, 0));
  values = v128.load_lane<u32>(VALUE_OF + <usize>i32x4.extract_lane(places, 1), values, 1);
  values = v128.load_lane<u32>(VALUE_OF + <usize>i32x4.extract_lane(places, 2), values, 2);
  return v128.load_lane<u32>(VALUE_OF + <usize>i32x4.extract_lane(places, 3), values, 3);
}

/** Scales of the blocks of one group, or of the sub-blocks of one super-block. */
const SCALES: usize = memory.data(32, 16);

/** Searches the lanes of X under the weights in W; four scales to `target`. Returns 1 when the oracle must do it. */
function searchScales(target: usize): i32 {
  let extreme = f32x4.splat(0);
  let magnitude = f32x4.splat(0);
  for (let i: usize = 0; i < 512; i += 16) {
    const x = v128.load(X + i);
    const isLarger = f32x4.gt(f32x4.abs(x), magnitude);
    magnitude = v128.bitselect(f32x4.abs(x), magnitude, isLarger);
    extreme = v128.bitselect(x, extreme, isLarger);
  }
  if (v128.any_true(f32x4.gt(magnitude, f32x4.splat(TAME_MAX)))) return 1;
  const isZero = f32x4.lt(magnitude, f32x4.splat(ZERO_BELOW));
  extreme = v128.bitselect(f32x4.splat(1), extreme, isZero);
  let d = f32x4.splat(0);
  let best = f32x4.splat(0);
  for (let step = -8; step <= 7; step++) {
    const inverse =
      step == -8
        ? f32x4.div(f32x4.splat(1), f32x4.div(f32x4.neg(extreme), f32x4.splat(-127)))
        : f32x4.div(f32x4.splat(<f32>(step - 127)), extreme);
    let sumQx = f32x4.splat(0);
    let sumQ2 = f32x4.splat(0);
    for (let i: usize = 0; i < 512; i += 16) {
      const x = v128.load(X + i);
      const q = valuesOf(f32x4.mul(inverse, x));
      const product = f32x4.mul(v128.load(W + i), q);
      sumQx = f32x4.add(sumQx, f32x4.mul(product, x));
      sumQ2 = f32x4.add(sumQ2, f32x4.mul(product, q));
    }
    let isBetter = v128.and(
      f32x4.gt(sumQ2, f32x4.splat(0)),
      f32x4.gt(f32x4.mul(sumQx, sumQx), f32x4.mul(best, sumQ2)),
    );
    if (step == -8) isBetter = i32x4.splat(-1);
    d = v128.bitselect(f32x4.div(sumQx, sumQ2), d, isBetter);
    best = v128.bitselect(f32x4.mul(d, sumQx), best, isBetter);
  }
  d = v128.andnot(d, isZero);
  v128.store(target, d);
  return v128.any_true(f32x4.ne(d, d)) ? 1 : 0;
}

/** Codes of 32 values under a scale: low nibbles are the first sixteen. Returns 1 when the oracle must do it. */
function packCodes(d: f32, s: usize, t: usize): i32 {
  if (d != 0 && !(abs(d) >= TAME_MIN)) return 1;
  const inverse = f32x4.splat(d == 0 ? 0 : 1 / d);
  for (let i: usize = 0; i < 16; i += 4) {
    const low = placesOf(f32x4.mul(inverse, v128.load(s + (i << 2))));
    const high = placesOf(f32x4.mul(inverse, v128.load(s + (i << 2), 64)));
    store<u8>(t + i, entryAt(i32x4.extract_lane(low, 0)) | (entryAt(i32x4.extract_lane(high, 0)) << 4));
    store<u8>(t + i, entryAt(i32x4.extract_lane(low, 1)) | (entryAt(i32x4.extract_lane(high, 1)) << 4), 1);
    store<u8>(t + i, entryAt(i32x4.extract_lane(low, 2)) | (entryAt(i32x4.extract_lane(high, 2)) << 4), 2);
    store<u8>(t + i, entryAt(i32x4.extract_lane(low, 3)) | (entryAt(i32x4.extract_lane(high, 3)) << 4), 3);
  }
  return 0;
}

@inline function entryAt(place: i32): u8 {
  return load<u8>(ENTRY_OF + <usize>place);
}

/** 2 S(x x) / 32 of each lane of X, in order. */
function sigmas(): v128 {
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < 512; i += 16) {
    const x = v128.load(X + i);
    sum = f32x4.add(sum, f32x4.mul(x, x));
  }
  return f32x4.div(sum, f32x4.splat(16));
}

export function quantizeIQ4_NL(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  if (!load<i32>(READY)) fillTables();
  let t = target;
  for (let block = 0; block < blocks; ) {
    const together: usize = blocks - block < 4 ? 1 : 4;
    const stride: usize = together == 4 ? 128 : 0;
    const at = <usize>block << 7;
    toLanes(source + at, stride, X, 32);
    if (importance == 0) weighBySquare(32);
    else weighByImportance(importance + at, stride, sigmas(), 32);
    if (searchScales(SCALES)) return 1;
    for (let k: usize = 0; k < together; k++, t += 18) {
      const d = load<f32>(SCALES + (k << 2));
      putHalf(t, d);
      if (packCodes(d, source + at + (k << 7), t + 2)) return 1;
    }
    block += <i32>together;
  }
  return 0;
}

export function quantizeIQ4_XS(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  if (!load<i32>(READY)) fillTables();
  let t = target;
  for (let block: usize = 0; block < <usize>blocks; block++, t += 136) {
    const s = source + (block << 10);
    const sigma2 = f32x4.splat(importance == 0 ? 0 : sumOfSquares(s, 256) / 128);
    for (let j: usize = 0; j < 8; j += 4) {
      toLanes(s + (j << 7), 128, X, 32);
      if (importance == 0) weighBySquare(32);
      else weighByImportance(importance + (block << 10) + (j << 7), 128, sigma2, 32);
      if (searchScales(SCALES + (j << 2))) return 1;
    }
    const d = -signedExtreme(SCALES, 8) / 32;
    const inverse: f32 = d == 0 ? 0 : 1 / d;
    putHalf(t, d);
    let low: u32 = 0;
    let high: u32 = 0;
    for (let j = 0; j < 8; j++) {
      const code = max(min(nearInt(inverse * load<f32>(SCALES + (<usize>j << 2))), 31), -32);
      if (packCodes(d * <f32>code, s + (<usize>j << 7), t + 8 + (<usize>j << 4))) return 1;
      low |= <u32>((code + 32) & 15) << (4 * j);
      high |= <u32>((code + 32) >> 4) << (2 * j);
    }
    store<u16>(t, <u16>high, 2);
    store<u32>(t, low, 4);
  }
  return 0;
}
