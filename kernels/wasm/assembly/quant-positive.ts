// core/schemes/search.ts: searchPositive, the codes of the scales and minima of a super-block's sub-blocks: a few values,
// one after the other.
import { nearInt } from "./quant-lanes";

/** Codes while a descent moves them. */
const MOVING: usize = memory.data(64, 16);
/** Blocks whose largest magnitude is below this are zero. */
export const ZERO_BELOW: f32 = 1e-15;

/** S(w (x - l / inverse)^2) of the codes that an inverse scale gives. */
function errorOf(n: i32, nmax: i32, x: usize, w: usize, inverse: f32): f32 {
  const scale: f32 = 1 / inverse;
  let sum: f32 = 0;
  const end = <usize>n << 2;
  for (let i: usize = 0; i < end; i += 4) {
    const value = load<f32>(x + i);
    const difference = value - scale * <f32>min(nearInt(inverse * value), nmax);
    sum += load<f32>(w + i) * difference * difference;
  }
  return sum;
}

/** Codes as bytes to `codes`; returns the scale. */
export function searchPositive(n: i32, nmax: i32, x: usize, w: usize, codes: usize): f32 {
  const end = <usize>n << 2;
  let largest: f32 = 0;
  for (let i: usize = 0; i < end; i += 4) {
    if (load<f32>(x + i) > largest) largest = load<f32>(x + i);
  }
  if (largest < ZERO_BELOW) {
    memory.fill(codes, 0, <usize>n);
    return 0;
  }
  let inverse = <f32>nmax / largest;
  let best = errorOf(n, nmax, x, w, inverse);
  for (let step = -4; step <= 4; step++) {
    if (step == 0) continue;
    const candidate = (<f32>0.1 * <f32>step + <f32>nmax) / largest;
    const error = errorOf(n, nmax, x, w, candidate);
    if (error < best) {
      best = error;
      inverse = candidate;
    }
  }
  for (let i: usize = 0; i < end; i += 4) {
    store<i32>(MOVING + i, min(nearInt(inverse * load<f32>(x + i)), nmax));
  }
  const scale = descend(end, x, w, nmax);
  for (let i: usize = 0; i < end; i += 4) store<u8>(codes + (i >> 2), <u8>load<i32>(MOVING + i));
  return scale;
}

/** Up to five sweeps: each code moves where that raises S(wxl)^2 / S(wll). */
function descend(end: usize, x: usize, w: usize, nmax: i32): f32 {
  let sumLx: f32 = 0;
  let sumL2: f32 = 0;
  for (let i: usize = 0; i < end; i += 4) {
    const weight = load<f32>(w + i);
    const l = <f32>load<i32>(MOVING + i);
    sumLx += weight * load<f32>(x + i) * l;
    sumL2 += weight * l * l;
  }
  for (let sweep = 0; sweep < 5; sweep++) {
    let changed = false;
    for (let i: usize = 0; i < end; i += 4) {
      const value = load<f32>(x + i);
      const weight = load<f32>(w + i);
      const l = load<i32>(MOVING + i);
      let slx = sumLx - weight * value * <f32>l;
      let sl2 = sumL2 - weight * <f32>l * <f32>l;
      if (!(slx > 0) || !(sl2 > 0)) continue;
      const to = max(min(nearInt((value * sl2) / slx), nmax), 0);
      if (to == l) continue;
      slx += weight * value * <f32>to;
      sl2 += weight * <f32>to * <f32>to;
      if (sl2 > 0 && slx * slx * sumL2 > sumLx * sumLx * sl2) {
        store<i32>(MOVING + i, to);
        sumLx = slx;
        sumL2 = sl2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return sumL2 > 0 ? sumLx / sumL2 : 0;
}
