// Exponential and logarithm in float64 with the same bits everywhere: engines may differ in the last bits of Math.exp
// and Math.log, so results that reach a digest use these. Only +, -, *, / and bit patterns.

const LN2_HIGH = 0.6931471803691238;
const LN2_LOW = 1.9082149292705877e-10;

/** Below this the result is less than 2^-1000: given as 0. */
const EXP_LEAST = -693;

/** Scratch for reading and making the bits of one double. */
const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);

/** 2^exponent for exponents from -1022 to 1023. */
function powerOfTwo(exponent: number): number {
  words[0] = 0;
  words[1] = (exponent + 1023) << 20;
  return double[0] ?? 0;
}

/**
 * e^x for x <= 0, within 2 units in the last place; 0 below -693, NaN of NaN.
 * Method: x = k ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite's two parts of ln 2), Taylor's series to r^13 / 13!,
 * whose rest is below 4e-18, times 2^k.
 */
export function exponential(x: number): number {
  if (Number.isNaN(x)) return Number.NaN;
  if (x < EXP_LEAST) return 0;
  const k = Math.floor(x * Math.LOG2E + 0.5);
  const r = x - k * LN2_HIGH - k * LN2_LOW;
  let sum = 1 / 6227020800;
  sum = sum * r + 1 / 479001600;
  sum = sum * r + 1 / 39916800;
  sum = sum * r + 1 / 3628800;
  sum = sum * r + 1 / 362880;
  sum = sum * r + 1 / 40320;
  sum = sum * r + 1 / 5040;
  sum = sum * r + 1 / 720;
  sum = sum * r + 1 / 120;
  sum = sum * r + 1 / 24;
  sum = sum * r + 1 / 6;
  sum = sum * r + 0.5;
  return (1 + (r + r * r * sum)) * powerOfTwo(k);
}

/**
 * Natural logarithm of a positive, finite, normal x, within 2 units in the last place; NaN of NaN.
 * Method: x = 2^k m with m from sqrt(1/2) to sqrt(2); s = (m - 1) / (m + 1); ln m = 2 (s + s^3 / 3 + ... + s^21 / 21),
 * whose rest is below 5e-19 of it.
 */
export function logarithm(x: number): number {
  if (Number.isNaN(x)) return Number.NaN;
  double[0] = x;
  let k = ((words[1] ?? 0) >>> 20) - 1023;
  words[1] = ((words[1] ?? 0) & 0x000fffff) | 0x3ff00000;
  let m = double[0] ?? 0;
  if (m > Math.SQRT2) {
    m /= 2;
    k++;
  }
  const f = m - 1;
  const s = f / (2 + f);
  const z = s * s;
  let sum = 2 / 21;
  sum = sum * z + 2 / 19;
  sum = sum * z + 2 / 17;
  sum = sum * z + 2 / 15;
  sum = sum * z + 2 / 13;
  sum = sum * z + 2 / 11;
  sum = sum * z + 2 / 9;
  sum = sum * z + 2 / 7;
  sum = sum * z + 2 / 5;
  sum = sum * z + 2 / 3;
  // 2 s = f - s f: the exact f carries what the quotient rounds away.
  return k * LN2_HIGH + (f - (s * (f - z * sum) - k * LN2_LOW));
}
