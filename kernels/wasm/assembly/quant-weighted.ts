// core/schemes/blocks-of-32.ts with an importance matrix: Q4_0, Q4_1, Q5_0 and Q5_1, whose scales are then searched, four
// blocks side by side; the last few of a row one at a time.
import { FOUND, FOUND_INVERSE, FOUND_MINIMUM, FOUND_ORIGIN, foundCodes16, searchAffineWeighted } from "./quant-affine";
import { putHalf, sumOfSquares, toLanes, weighByImportance, X } from "./quant-lanes";
import { searchSigned, SIGNED, SIGNED_INVERSE, SIGNED_ZERO, signedCodes16 } from "./quant-signed";
import { pack32 } from "./quant-simple";

/** Block `k` of those in the lanes, from its values at `s`. */
@inline function writeSigned(s: usize, t: usize, k: usize, bits: i32): void {
  putHalf(t, load<f32>(SIGNED + (k << 2)));
  let a = i8x16.splat(0);
  let b = i8x16.splat(0);
  if (load<i32>(SIGNED_ZERO + (k << 2)) == 0) {
    const inverse = v128.load_splat<u32>(SIGNED_INVERSE + (k << 2));
    a = signedCodes16(s, inverse, false, 1 << (bits - 1));
    b = signedCodes16(s + 64, inverse, false, 1 << (bits - 1));
  }
  pack32(t + 2, bits, a, b);
}

@inline function writeAffine(s: usize, t: usize, k: usize, bits: i32): void {
  putHalf(t, load<f32>(FOUND + (k << 2)));
  putHalf(t + 2, -load<f32>(FOUND_MINIMUM + (k << 2)));
  const inverse = v128.load_splat<u32>(FOUND_INVERSE + (k << 2));
  const origin = v128.load_splat<u32>(FOUND_ORIGIN + (k << 2));
  const most = i32x4.splat((1 << bits) - 1);
  pack32(t + 4, bits, foundCodes16(s, inverse, origin, most), foundCodes16(s + 64, inverse, origin, most));
}

@inline function quantize(
  isAffine: bool,
  bits: i32,
  source: usize,
  target: usize,
  blocks: i32,
  importance: usize,
): i32 {
  const bytes: usize = (isAffine ? 20 : 18) + (bits == 5 ? 4 : 0);
  const sigma2 = f32x4.splat(sumOfSquares(source, blocks << 5) / <f32>(blocks << 5));
  let t = target;
  for (let block = 0; block < blocks; ) {
    const together: usize = blocks - block < 4 ? 1 : 4;
    const stride: usize = together == 4 ? 128 : 0;
    const at = <usize>block << 7;
    toLanes(source + at, stride, X, 32);
    weighByImportance(importance + at, stride, sigma2, 32);
    if (isAffine ? searchAffineWeighted(32, <f32>((1 << bits) - 1)) : searchSigned(32, <f32>(1 << (bits - 1)))) return 1;
    for (let k: usize = 0; k < together; k++, t += bytes) {
      if (isAffine) writeAffine(source + at + (k << 7), t, k, bits);
      else writeSigned(source + at + (k << 7), t, k, bits);
    }
    block += <i32>together;
  }
  return 0;
}

export function weightedQ4_0(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  return quantize(false, 4, source, target, blocks, importance);
}
export function weightedQ5_0(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  return quantize(false, 5, source, target, blocks, importance);
}
export function weightedQ4_1(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  return quantize(true, 4, source, target, blocks, importance);
}
export function weightedQ5_1(source: usize, target: usize, blocks: i32, importance: usize): i32 {
  return quantize(true, 5, source, target, blocks, importance);
}
