// core/schemes: schemes whose scale needs no search. Q8_0, and Q4_0, Q4_1, Q5_0 and Q5_1 without an importance matrix.
// Every quantizer returns 1, its row undone, when a block's numbers are so small or large that the oracle must do it.
import { floatsToHalves } from "./cast";
import {
  maxOfLanes,
  putHalf,
  signedExtreme,
  TAME_MAX,
  TAME_MIN,
  toBytes,
  toInts,
  toLanes,
} from "./quant-lanes";

/** Zero, or within what every step below keeps finite. */
@inline export function isTame(magnitude: f32): bool {
  return magnitude == 0 || (magnitude >= TAME_MIN && magnitude <= TAME_MAX);
}

/** Just below a half: with the sign of x, added to x, it makes truncation round halves away from zero. */
const BELOW_HALF: f32 = 0.49999997;

@inline function roundAway(x: v128, inverse: v128): v128 {
  const y = f32x4.mul(x, inverse);
  const half = v128.or(v128.and(y, i32x4.splat(<i32>0x80000000)), f32x4.splat(BELOW_HALF));
  return toInts(f32x4.trunc(f32x4.add(y, half)));
}

export function quantizeQ8_0(source: usize, target: usize, blocks: i32): i32 {
  let t = target;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 128, t += 34) {
    let most = f32x4.abs(v128.load(s));
    for (let i: usize = 16; i < 128; i += 16) most = f32x4.pmax(most, f32x4.abs(v128.load(s + i)));
    const largest = maxOfLanes(most);
    if (!isTame(largest)) return 1;
    const d = largest / 127;
    const inverse = f32x4.splat(d == 0 ? 0 : 1 / d);
    putHalf(t, d);
    for (let i: usize = 0; i < 2; i++) {
      const x = s + 64 * i;
      const ab = i16x8.narrow_i32x4_s(roundAway(v128.load(x), inverse), roundAway(v128.load(x, 16), inverse));
      const cd = i16x8.narrow_i32x4_s(roundAway(v128.load(x, 32), inverse), roundAway(v128.load(x, 48), inverse));
      v128.store(t + 2 + 16 * i, i8x16.narrow_i16x8_s(ab, cd));
    }
  }
  return 0;
}

/** Codes of four values: trunc((x - origin) inverse + offset), at most `most`; signed ones have no origin. */
@inline function code4(isAffine: bool, s: usize, origin: v128, inverse: v128, offset: v128, most: v128): v128 {
  const x = isAffine ? f32x4.sub(v128.load(s), origin) : v128.load(s);
  return f32x4.pmin(f32x4.trunc(f32x4.add(f32x4.mul(x, inverse), offset)), most);
}

@inline function codes16(isAffine: bool, s: usize, origin: v128, inverse: v128, offset: v128, most: v128): v128 {
  return toBytes(
    toInts(code4(isAffine, s, origin, inverse, offset, most)),
    toInts(code4(isAffine, s + 16, origin, inverse, offset, most)),
    toInts(code4(isAffine, s + 32, origin, inverse, offset, most)),
    toInts(code4(isAffine, s + 48, origin, inverse, offset, most)),
  );
}

/** Both codes of four bytes as one number, before it becomes an integer. */
@inline function pair4(isAffine: bool, s: usize, origin: v128, inverse: v128, offset: v128, most: v128): v128 {
  const high = f32x4.mul(code4(isAffine, s + 64, origin, inverse, offset, most), f32x4.splat(16));
  return toInts(f32x4.add(code4(isAffine, s, origin, inverse, offset, most), high));
}

/** The 32 codes of a block, behind its scale. */
@inline function packBlock(
  isAffine: bool,
  bits: i32,
  s: usize,
  t: usize,
  origin: v128,
  inverse: v128,
  offset: v128,
  most: v128,
): void {
  if (bits == 5) {
    const a = codes16(isAffine, s, origin, inverse, offset, most);
    pack32(t, 5, a, codes16(isAffine, s + 64, origin, inverse, offset, most));
    return;
  }
  const a = pair4(isAffine, s, origin, inverse, offset, most);
  const b = pair4(isAffine, s + 16, origin, inverse, offset, most);
  const c = pair4(isAffine, s + 32, origin, inverse, offset, most);
  v128.store(t, toBytes(a, b, c, pair4(isAffine, s + 48, origin, inverse, offset, most)));
}

/** Codes of a block, sixteen in each vector, behind its scale: fifth bits in one word, then nibbles. */
@inline export function pack32(t: usize, bits: i32, a: v128, b: v128): void {
  if (bits == 5) {
    store<u16>(t, <u16>i8x16.bitmask(i8x16.shl(a, 3)));
    store<u16>(t + 2, <u16>i8x16.bitmask(i8x16.shl(b, 3)));
    t += 4;
    a = v128.and(a, i8x16.splat(15));
  }
  v128.store(t, v128.or(a, i8x16.shl(b, 4)));
}

/** Room for the lanes of four blocks, and for what becomes of them. */
const LANES: usize = memory.data(128, 16);
const HIGHS: usize = memory.data(16, 16);
const LOWS: usize = memory.data(16, 16);
const SCALES: usize = memory.data(16, 16);
const HALVES: usize = memory.data(16, 16);
const MINIMUM_HALVES: usize = memory.data(16, 16);
const INVERSES: usize = memory.data(16, 16);

/** Greatest and least lanes of block `k` to LANES; zero counts where `withZero`. */
@inline function storeLanes(s: usize, k: usize, withZero: bool): void {
  let high = withZero ? f32x4.splat(0) : v128.load(s);
  let low = high;
  for (let i: usize = 0; i < 128; i += 16) {
    const x = v128.load(s + i);
    high = f32x4.pmax(high, x);
    low = f32x4.pmin(low, x);
  }
  v128.store(LANES + (k << 4), high);
  v128.store(LANES + (k << 4), low, 64);
}

/** Greatest and least values of four blocks, a block in each lane, to HIGHS and LOWS. */
@inline function fourRanges(source: usize, stride: usize, withZero: bool): void {
  for (let k: usize = 0; k < 4; k++) storeLanes(source + k * stride, k, withZero);
  toLanes(LANES, 16, LANES, 4);
  toLanes(LANES + 64, 16, LANES + 64, 4);
  const high = f32x4.pmax(
    f32x4.pmax(v128.load(LANES), v128.load(LANES, 16)),
    f32x4.pmax(v128.load(LANES, 32), v128.load(LANES, 48)),
  );
  const low = f32x4.pmin(
    f32x4.pmin(v128.load(LANES, 64), v128.load(LANES, 80)),
    f32x4.pmin(v128.load(LANES, 96), v128.load(LANES, 112)),
  );
  v128.store(HIGHS, high);
  v128.store(LOWS, low);
}

/** Every lane is zero, or within what every step below keeps finite. */
@inline function areTame(magnitude: v128): bool {
  const isTame = v128.and(
    f32x4.ge(magnitude, f32x4.splat(TAME_MIN)),
    f32x4.le(magnitude, f32x4.splat(TAME_MAX)),
  );
  return i32x4.all_true(v128.or(f32x4.eq(magnitude, f32x4.splat(0)), isTame));
}

/** Inverse scales and halves of four scales, to INVERSES and HALVES. */
@inline function storeScales(d: v128): void {
  v128.store(INVERSES, v128.andnot(f32x4.div(f32x4.splat(1), d), f32x4.eq(d, f32x4.splat(0))));
  v128.store(HALVES, floatsToHalves(d));
}

/** Signed extremes of four blocks, a block in each lane, to SCALES; 1 when one of them is not tame. */
@inline function fourExtremes(source: usize, stride: usize): i32 {
  fourRanges(source, stride, true);
  const high = v128.load(HIGHS);
  const low = v128.load(LOWS);
  const opposite = f32x4.neg(low);
  const magnitude = f32x4.pmax(high, opposite);
  const isZero = f32x4.eq(magnitude, f32x4.splat(0));
  if (!areTame(magnitude)) return 1;
  v128.store(SCALES, v128.andnot(v128.bitselect(high, low, f32x4.gt(high, opposite)), isZero));
  const ties = v128.andnot(f32x4.eq(high, opposite), isZero);
  if (v128.any_true(ties)) {
    // Both signs of the largest magnitude are there: the first one counts.
    for (let k: usize = 0; k < 4; k++) store<f32>(SCALES + (k << 2), signedExtreme(source + k * stride, 32));
  }
  return 0;
}

/** Four blocks at a time, so that their scales are divided and rounded together; the last few of a row alone. */
@inline function quantizeSigned(source: usize, target: usize, blocks: i32, bits: i32): i32 {
  const half: f32 = <f32>(1 << (bits - 1));
  const bytes: usize = bits == 5 ? 22 : 18;
  const offset = f32x4.splat(half + 0.5);
  const most = f32x4.splat(2 * half - 1);
  let t = target;
  for (let block = 0; block < blocks; ) {
    const together: usize = blocks - block < 4 ? 1 : 4;
    const s = source + (<usize>block << 7);
    if (fourExtremes(s, together == 4 ? 128 : 0)) return 1;
    storeScales(f32x4.div(v128.load(SCALES), f32x4.splat(-half)));
    for (let k: usize = 0; k < together; k++, t += bytes) {
      store<u16>(t, load<u16>(HALVES + (k << 2)));
      const inverse = v128.load_splat<u32>(INVERSES + (k << 2));
      packBlock(false, bits, s + (k << 7), t + 2, inverse, inverse, offset, most);
    }
    block += <i32>together;
  }
  return 0;
}

/** The first zero of a block: which of the two zeros is its minimum. */
function firstZero(source: usize): f32 {
  while (load<f32>(source) != 0) source += 4;
  return load<f32>(source);
}

/** Ranges of four blocks; 1 when one of them is not tame. */
@inline function fourMinima(source: usize, stride: usize): i32 {
  fourRanges(source, stride, false);
  const high = v128.load(HIGHS);
  const low = v128.load(LOWS);
  const magnitude = f32x4.pmax(f32x4.abs(low), f32x4.abs(high));
  if (!areTame(f32x4.sub(high, low)) || v128.any_true(f32x4.gt(magnitude, f32x4.splat(TAME_MAX)))) return 1;
  if (v128.any_true(f32x4.eq(low, f32x4.splat(0)))) {
    for (let k: usize = 0; k < 4; k++) {
      if (load<f32>(LOWS + (k << 2)) == 0) store<f32>(LOWS + (k << 2), firstZero(source + k * stride));
    }
  }
  return 0;
}

@inline function quantizeAffine(source: usize, target: usize, blocks: i32, bits: i32): i32 {
  const nmax: f32 = <f32>((1 << bits) - 1);
  const bytes: usize = bits == 5 ? 24 : 20;
  const offset = f32x4.splat(0.5);
  const most = f32x4.splat(nmax);
  let t = target;
  for (let block = 0; block < blocks; ) {
    const together: usize = blocks - block < 4 ? 1 : 4;
    const s = source + (<usize>block << 7);
    if (fourMinima(s, together == 4 ? 128 : 0)) return 1;
    storeScales(f32x4.div(f32x4.sub(v128.load(HIGHS), v128.load(LOWS)), f32x4.splat(nmax)));
    v128.store(MINIMUM_HALVES, floatsToHalves(v128.load(LOWS)));
    for (let k: usize = 0; k < together; k++, t += bytes) {
      store<u16>(t, load<u16>(HALVES + (k << 2)));
      store<u16>(t, load<u16>(MINIMUM_HALVES + (k << 2)), 2);
      const origin = v128.load_splat<u32>(LOWS + (k << 2));
      const inverse = v128.load_splat<u32>(INVERSES + (k << 2));
      packBlock(true, bits, s + (k << 7), t + 4, origin, inverse, offset, most);
    }
    block += <i32>together;
  }
  return 0;
}

export function quantizeQ4_0(source: usize, target: usize, blocks: i32): i32 {
  return quantizeSigned(source, target, blocks, 4);
}
export function quantizeQ5_0(source: usize, target: usize, blocks: i32): i32 {
  return quantizeSigned(source, target, blocks, 5);
}
export function quantizeQ4_1(source: usize, target: usize, blocks: i32): i32 {
  return quantizeAffine(source, target, blocks, 4);
}
export function quantizeQ5_1(source: usize, target: usize, blocks: i32): i32 {
  return quantizeAffine(source, target, blocks, 5);
}
