// Arcee fusion's importances in 16 bits, as the reference computes them when files or recipe say float16 or bfloat16:
// every step is rounded to the working dtype, so that divergences may be negative. Only `mergekit_compat: strict` asks
// for it; it is element by element and slow. Source: merge reference, sections 2.1 and 4.14.
import { bfloat16ToFloat32, float32ToBfloat16, type HalfDtype, roundingTo } from "../../ops/cast.ts";
import { type DivergenceScratch, PROBABILITY_FLOOR, softmax } from "../../ops/divergence.ts";
import { logarithm } from "../../ops/exponential.ts";

/** Codes are 16 bits, moved up so that as float32 patterns they stay below every key's largest. */
const CODE_SHIFT = 14;
const CODE_OF_ZERO = 0x8000;

const scratch = new DataView(new ArrayBuffer(4));

export type FusionSteps = {
  /** sum_i P_i ln(P_i / Q_i), every step rounded. */
  divergence(b: Float32Array, a: Float32Array, scratch: DivergenceScratch): number;
  /** |b - a| factor and b - a, rounded. */
  importance(b: number, a: number, factor: number): number;
  difference(b: number, a: number): number;
  /** median + 1.5 (high - low), rounded. */
  threshold(low: number, median: number, high: number): number;
  /** A value of the dtype as a float32 that is never negative and grows with it; every NaN is the largest. */
  encode(value: number): number;
  decode(code: number): number;
};

/** The steps in a dtype. */
export function fusionSteps(dtype: HalfDtype): FusionSteps {
  const round = roundingTo(dtype);
  const difference = (b: number, a: number) => round(b - a);
  return {
    difference,
    divergence(b, a, { p, q }) {
      softmax(b, p);
      softmax(a, q);
      let sum = 0;
      for (let i = 0; i < b.length; i++) {
        const own = round(round(p[i] ?? 0) + PROBABILITY_FLOOR);
        const other = round(round(q[i] ?? 0) + PROBABILITY_FLOOR);
        sum += round(own * round(logarithm(round(own / other))));
      }
      return round(sum);
    },
    importance: (b, a, factor) => round(Math.abs(difference(b, a)) * factor),
    threshold: (low, median, high) => round(median + round(1.5 * round(high - low))),
    encode(value) {
      const code = Number.isNaN(value) ? 0xffff : signedCode(dtype, value);
      scratch.setUint32(0, code << CODE_SHIFT);
      return scratch.getFloat32(0);
    },
    decode(code) {
      scratch.setFloat32(0, code);
      const signed = (scratch.getUint32(0) >>> CODE_SHIFT) - CODE_OF_ZERO;
      const magnitude = fromBits(dtype, Math.abs(signed));
      return signed < 0 ? -magnitude : magnitude;
    },
  };
}

function signedCode(dtype: HalfDtype, value: number): number {
  const magnitude = toBits(dtype, Math.abs(value));
  return value < 0 ? CODE_OF_ZERO - magnitude : CODE_OF_ZERO + magnitude;
}

function toBits(dtype: HalfDtype, value: number): number {
  if (dtype === "BF16") return float32ToBfloat16(value);
  scratch.setFloat16(0, value);
  return scratch.getUint16(0);
}

function fromBits(dtype: HalfDtype, bits: number): number {
  if (dtype === "BF16") return bfloat16ToFloat32(bits);
  scratch.setUint16(0, bits);
  return scratch.getFloat16(0);
}
