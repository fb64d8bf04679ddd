// Double Rounding: fewer bits from stored 8-bit codes alone, without the float weights. The codes of every lower width
// come from the 8-bit ones, not from each other.
// Source: Nearly Lossless Adaptive Bit Switching, arXiv:2502.01199; quantization reference section 10.

/** Widths that 8-bit codes give way to. */
export type LowerBits = 6 | 4 | 2;

const STORED_BITS = 8;

/**
 * q_l = clip(round(q_8 / 2^(8 - l))), ties to even; its step is 2^(8 - l) times the stored one. The difference |q_l
 * 2^(8 - l) - q_8| is at most half that step, except where the largest codes are clipped.
 */
export function deriveCodes(codes: Int8Array, bits: LowerBits): Int8Array {
  const shift = STORED_BITS - bits;
  const [low, high] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
  return codes.map((code) => {
    const rounded = (code + (1 << (shift - 1)) - 1 + ((code >> shift) & 1)) >> shift;
    return Math.min(Math.max(rounded, low), high);
  });
}

/** The step of derived codes, in float32. */
export function deriveScale(scale: number, bits: LowerBits): number {
  return Math.fround(scale * 2 ** (STORED_BITS - bits));
}

/**
 * The step that loses least against the stored values of one group: s_l = sum(q_8 q_l) s_8 / sum(q_l^2), in float32.
 * Worth its pass at 4 bits and below. A group whose derived codes are all zero keeps the plain step.
 */
export function refitScale(codes: Int8Array, derived: Int8Array, scale: number, bits: LowerBits): number {
  let [product, square] = [0, 0];
  for (let i = 0; i < codes.length; i++) {
    product += (codes[i] ?? 0) * (derived[i] ?? 0);
    square += (derived[i] ?? 0) ** 2;
  }
  return square === 0 ? deriveScale(scale, bits) : Math.fround((product * scale) / square);
}
