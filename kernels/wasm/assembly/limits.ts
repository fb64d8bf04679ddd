// core/schemes/limits.ts: where the codes of every run of a row's blocks end, as the schemes declare it. In float64,
// rounded once, as the oracle has it.
import { scaleQ3, scaleXS, sixBits } from "./dequant";
import { mxStep, nvStep } from "./quant-fp4";
import { loadHalf } from "./quant-lanes";

const ROUNDING: f64 = 1 + 1.0 / 1048576;

/** Codes stand for values from `first` to `last`, in either order; `margin` is half a step. */
@inline function setLimits(low: usize, high: usize, first: f64, last: f64, margin: f64): void {
  const reach = abs(margin);
  const least = min(first, last) - reach;
  const most = max(first, last) + reach;
  store<f32>(low, <f32>(least * (least < 0 ? ROUNDING : 2 - ROUNDING)));
  store<f32>(high, <f32>(most * (most > 0 ? ROUNDING : 2 - ROUNDING)));
}

@inline function blocks32(source: usize, blocks: i32, low: usize, high: usize, bits: i32, isAffine: bool): void {
  const bytes: usize = (isAffine ? 20 : 18) + (bits == 5 ? 4 : 0);
  const half: f64 = <f64>(1 << (bits - 1));
  const end = <usize>blocks << 2;
  let s = source;
  for (let at: usize = 0; at < end; at += 4, s += bytes) {
    const d = <f64>loadHalf(s);
    const first = isAffine ? <f64>loadHalf(s + 2) : -half * d;
    setLimits(low + at, high + at, first, first + (2 * half - 1) * d, d / 2);
  }
}

export function limitsQ4_0(source: usize, blocks: i32, low: usize, high: usize): void {
  blocks32(source, blocks, low, high, 4, false);
}
export function limitsQ4_1(source: usize, blocks: i32, low: usize, high: usize): void {
  blocks32(source, blocks, low, high, 4, true);
}
export function limitsQ5_0(source: usize, blocks: i32, low: usize, high: usize): void {
  blocks32(source, blocks, low, high, 5, false);
}
export function limitsQ5_1(source: usize, blocks: i32, low: usize, high: usize): void {
  blocks32(source, blocks, low, high, 5, true);
}

/** Scale and minimum of a sub-block, as integers under d and dmin. */
@inline function setAffine(low: usize, high: usize, step: f64, offset: f64, nmax: f64): void {
  setLimits(low, high, -offset, step * nmax - offset, step / 2);
}

export function limitsQ2_K(source: usize, blocks: i32, low: usize, high: usize): void {
  let at: usize = 0;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 84) {
    const d = <f64>loadHalf(s + 80);
    const dmin = <f64>loadHalf(s + 82);
    for (let j: usize = 0; j < 16; j++, at += 4) {
      const both = <i32>load<u8>(s + j);
      setAffine(low + at, high + at, d * <f64>(both & 15), dmin * <f64>(both >> 4), 3);
    }
  }
}

@inline function limitsK45(source: usize, blocks: i32, low: usize, high: usize, bytes: usize, nmax: f64): void {
  let at: usize = 0;
  let s = source;
  for (let block = 0; block < blocks; block++, s += bytes) {
    const d = <f64>loadHalf(s);
    const dmin = <f64>loadHalf(s + 2);
    for (let j = 0; j < 8; j++, at += 4) {
      const both = sixBits(s + 4, j);
      setAffine(low + at, high + at, d * <f64>(both & 63), dmin * <f64>(both >> 8), nmax);
    }
  }
}

export function limitsQ4_K(source: usize, blocks: i32, low: usize, high: usize): void {
  limitsK45(source, blocks, low, high, 144, 15);
}
export function limitsQ5_K(source: usize, blocks: i32, low: usize, high: usize): void {
  limitsK45(source, blocks, low, high, 176, 31);
}

/** Codes from -half to half - 1 under a step. */
@inline function setSigned(low: usize, high: usize, step: f64, half: f64): void {
  setLimits(low, high, -half * step, (half - 1) * step, step / 2);
}

export function limitsQ3_K(source: usize, blocks: i32, low: usize, high: usize): void {
  let at: usize = 0;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 110) {
    const d = <f64>loadHalf(s + 108);
    for (let j = 0; j < 16; j++, at += 4) setSigned(low + at, high + at, d * <f64>scaleQ3(s, j), 4);
  }
}

export function limitsQ6_K(source: usize, blocks: i32, low: usize, high: usize): void {
  let at: usize = 0;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 210) {
    const d = <f64>loadHalf(s + 208);
    for (let j: usize = 0; j < 16; j++, at += 4) setSigned(low + at, high + at, d * <f64>load<i8>(s + 192 + j), 32);
  }
}

/** The table's ends, and half the step there, about. */
@inline function setEntries(low: usize, high: usize, d: f64): void {
  setLimits(low, high, -127 * d, 113 * d, 11.75 * d);
}

export function limitsIQ4_NL(source: usize, blocks: i32, low: usize, high: usize): void {
  const end = <usize>blocks << 2;
  let s = source;
  for (let at: usize = 0; at < end; at += 4, s += 18) setEntries(low + at, high + at, <f64>loadHalf(s));
}

export function limitsIQ4_XS(source: usize, blocks: i32, low: usize, high: usize): void {
  let at: usize = 0;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 136) {
    const d = <f64>loadHalf(s);
    for (let j = 0; j < 8; j++, at += 4) setEntries(low + at, high + at, d * <f64>scaleXS(s, j));
  }
}

/** Doubled, the largest value is 12 and the next one 8. */
@inline function setFp4(low: usize, high: usize, step: f64): void {
  setLimits(low, high, -12 * step, 12 * step, 2 * step);
}

export function limitsMXFP4(source: usize, blocks: i32, low: usize, high: usize): void {
  const end = <usize>blocks << 2;
  let s = source;
  for (let at: usize = 0; at < end; at += 4, s += 17) setFp4(low + at, high + at, <f64>mxStep(<i32>load<u8>(s)));
}

export function limitsNVFP4(source: usize, blocks: i32, low: usize, high: usize): void {
  let at: usize = 0;
  let s = source;
  for (let block = 0; block < blocks; block++, s += 36) {
    for (let j: usize = 0; j < 4; j++, at += 4) setFp4(low + at, high + at, <f64>nvStep(<i32>load<u8>(s + j)));
  }
}

export function limitsQ1_0(source: usize, blocks: i32, low: usize, high: usize): void {
  const end = <usize>blocks << 2;
  let s = source;
  for (let at: usize = 0; at < end; at += 4, s += 18) {
    const d = <f64>loadHalf(s);
    setLimits(low + at, high + at, -d, d, d);
  }
}
