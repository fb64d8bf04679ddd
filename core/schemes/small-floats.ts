// Floats of 4 and 8 bits as numbers: the value of every code, and the code nearest to a value. Called by the schemes
// whose weights or scales are such floats.
// Source: quantization reference section 1; checked against ml_dtypes.
const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

export type SmallFloat = {
  readonly title: string;
  readonly mantissaBits: number;
  readonly bias: number;
  /** Code of the sign. */
  readonly signBit: number;
  /** Code of the largest finite value, without sign. */
  readonly largestCode: number;
  readonly largest: number;
  /** What a value beyond the largest becomes in a plain cast: infinity, NaN, or the largest again. */
  readonly overflowCode: number;
  /** A code of NaN; undefined where there is none, and NaN becomes zero. */
  readonly nanCode: number | undefined;
  /** Value of every code. */
  readonly values: Float32Array;
};

type Layout = Pick<
  SmallFloat,
  "title" | "mantissaBits" | "bias" | "signBit" | "largestCode" | "overflowCode" | "nanCode"
>;

function smallFloat(layout: Layout): SmallFloat {
  const values = Float32Array.from({ length: 2 * layout.signBit }, (_, code) => valueOfCode(layout, code));
  return Object.freeze({ ...layout, largest: values[layout.largestCode] ?? 0, values });
}

function valueOfCode(
  { mantissaBits, bias, signBit, largestCode, nanCode, overflowCode }: Layout,
  code: number,
): number {
  const [sign, size] = [(code & signBit) === 0 ? 1 : -1, code & (signBit - 1)];
  if (size > largestCode) return size === overflowCode && overflowCode !== nanCode ? sign * Infinity : Number.NaN;
  const [exponent, mantissa] = [size >> mantissaBits, size & ((1 << mantissaBits) - 1)];
  const step = 2 ** (Math.max(exponent, 1) - bias - mantissaBits);
  return sign * step * (exponent === 0 ? mantissa : mantissa + (1 << mantissaBits));
}

/** 8 bits, largest 448, no infinity. */
export const E4M3 = smallFloat({
  title: "E4M3 (finite numbers and NaN)",
  mantissaBits: 3,
  bias: 7,
  signBit: 0x80,
  largestCode: 0x7e,
  overflowCode: 0x7f,
  nanCode: 0x7f,
});

/** 8 bits, largest 57344, infinities. */
export const E5M2 = smallFloat({
  title: "E5M2",
  mantissaBits: 2,
  bias: 15,
  signBit: 0x80,
  largestCode: 0x7b,
  overflowCode: 0x7c,
  nanCode: 0x7e,
});

/** 8 bits, largest 15.5, infinities. */
export const E3M4 = smallFloat({
  title: "E3M4",
  mantissaBits: 4,
  bias: 3,
  signBit: 0x80,
  largestCode: 0x6f,
  overflowCode: 0x70,
  nanCode: 0x78,
});

/**
 * 8 bits, largest 7.875, every code a number. Where a largest value is asked for instead, as the paper on FP8 and INT8
 * has it, its free bias is the scale of the weights.
 */
export const E2M5 = smallFloat({
  title: "E2M5 (every code a number)",
  mantissaBits: 5,
  bias: 1,
  signBit: 0x80,
  largestCode: 0x7f,
  overflowCode: 0x7f,
  nanCode: undefined,
});

/** 4 bits, largest 6, every code a number. */
export const E2M1 = smallFloat({
  title: "E2M1 (every code a number)",
  mantissaBits: 1,
  bias: 1,
  signBit: 8,
  largestCode: 7,
  overflowCode: 7,
  nanCode: undefined,
});

/** Code nearest to a float32, ties to the even code; too large becomes `overflowCode`. Zeros keep their sign. */
export function encodeFloat(format: SmallFloat, value: number): number {
  return encode(format, value, format.overflowCode);
}

/** The same, but what is too large becomes the largest finite value. */
export function encodeSaturated(format: SmallFloat, value: number): number {
  return encode(format, value, format.largestCode);
}

function encode({ mantissaBits, bias, signBit, nanCode }: SmallFloat, value: number, beyond: number): number {
  if (Number.isNaN(value)) return nanCode ?? 0;
  float[0] = value;
  const bits = word[0] ?? 0;
  const sign = bits >= 0x80000000 ? signBit : 0;
  const size = bits & 0x7fffffff;
  const lowest = (128 - bias) << 23;
  let code: number;
  if (size < lowest) {
    float[0] = Math.abs(value) * 2 ** (bias - 1 + mantissaBits) + 8388608;
    code = (word[0] ?? 0) & 0x7fffff;
  } else {
    const dropped = 23 - mantissaBits;
    code = ((size + (1 << (dropped - 1)) - 1 + ((size >>> dropped) & 1)) >>> dropped) - ((127 - bias) << mantissaBits);
  }
  return sign | Math.min(code, beyond);
}

/** Value of the power of two with biased exponent `code` (E8M0); 255 is NaN. */
export function powerOf(code: number): number {
  return code === 255 ? Number.NaN : 2 ** (code - 127);
}
