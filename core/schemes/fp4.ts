// MXFP4 and NVFP4 as GGUF files hold them: 4-bit floats under a power of two for 32 values, or an E4M3 scale for 16.
import { setLimits } from "./limits.ts";
import type { BlockScheme } from "./scheme.ts";
import { signedExtreme } from "./search.ts";

const f = Math.fround;
/** Twice the values of E2M1, by code. */
const VALUES = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

/** The code whose value times `step` is nearest to x; the first of equals, so that minus zero never appears. */
function nearestCode(x: number, step: number): number {
  let [code, best] = [0, Math.abs(f(f(0 * step) - x))];
  for (let c = 1; c < 16; c++) {
    const error = Math.abs(f(f((VALUES[c] ?? 0) * step) - x));
    if (error < best) {
      best = error;
      code = c;
    }
  }
  return code;
}

/** Codes of 2 `half` values: low nibbles are the first half. */
function packCodes(step: number, half: number, row: Float32Array, at: number, target: Uint8Array, to: number): void {
  for (let i = 0; i < half; i++) {
    target[to + i] = nearestCode(row[at + i] ?? 0, step) | (nearestCode(row[at + half + i] ?? 0, step) << 4);
  }
}

function unpackCodes(
  step: number,
  half: number,
  source: Uint8Array,
  from: number,
  target: Float32Array,
  at: number,
): void {
  for (let i = 0; i < half; i++) {
    const byte = source[from + i] ?? 0;
    target[at + i] = (VALUES[byte & 15] ?? 0) * step;
    target[at + half + i] = (VALUES[byte >> 4] ?? 0) * step;
  }
}

/** Doubled, the largest value is 12 and the next one 8. */
function limitCodes(step: number, at: number, low: Float32Array, high: Float32Array): void {
  setLimits(low, high, at, -12 * step, 12 * step, 2 * step);
}

/** Exponent byte e: floor(log2 max|x|) - 2 + 127, the logarithm rounded to float32; 0 for zero and below the range. */
function exponentOf(largest: number): number {
  return largest > 0 ? Math.max(0, Math.floor(f(Math.log2(largest))) - 2 + 127) : 0;
}

/** x ~ 2^(e - 127) E2M1(q) for 32 values. */
export const mxfp4 = Object.freeze({
  id: "mxfp4",
  title: "4-bit floats under a power of two for 32 (MXFP4)",
  source: "ggml MXFP4; OCP microscaling formats",
  blockElements: 32,
  blockBytes: 17,
  needs: "stream",
  importance: "ignored",
  quantize(row, target) {
    for (let at = 0, to = 0; at < row.length; at += 32, to += 17) {
      const exponent = exponentOf(Math.abs(signedExtreme(row, at, 32)));
      target[to] = exponent;
      packCodes(2 ** (exponent - 128), 16, row, at, target, to + 1);
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 32, from += 17) {
      unpackCodes(2 ** ((source[from] ?? 0) - 128), 16, source, from + 1, target, at);
    }
  },
  limits: {
    width: 32,
    read(source, low, high) {
      for (let at = 0, from = 0; from < source.length; at++, from += 17) {
        limitCodes(2 ** ((source[from] ?? 0) - 128), at, low, high);
      }
    },
  },
} satisfies BlockScheme);

/**
 * Unsigned E4M3 of a value >= 0, halves of the mantissa upward, at most 448. A value below the normal numbers stays
 * below them, as the reference has it: what would round up to 2^-6 is the largest subnormal.
 */
function encodeScale(value: number): number {
  if (!(value > 0)) return 0;
  if (value > 448) return 0x7e;
  if (value < 2 ** -6) return Math.min(7, Math.floor(value * 2 ** 9 + 0.5));
  const exponent = Math.floor(Math.log2(value));
  const eighths = Math.floor(value * 2 ** (3 - exponent) + 0.5);
  return Math.min(0x7e, 8 * (exponent + 6) + eighths);
}

/** Half the value of an unsigned E4M3: the step of doubled E2M1 values. */
function scaleStep(code: number): number {
  if ((code & 0x7f) === 0x7f) return 0;
  const [exponent, mantissa] = [code >> 3, code & 7];
  return exponent === 0 ? mantissa * 2 ** -10 : (8 + mantissa) * 2 ** (exponent - 11);
}

/** x ~ E4M3(d) E2M1(q), d for 16 of 64 values. */
export const nvfp4 = Object.freeze({
  id: "nvfp4",
  title: "4-bit floats under an 8-bit float for 16 (NVFP4)",
  source: "ggml NVFP4, which has no scale of the whole tensor",
  blockElements: 64,
  blockBytes: 36,
  needs: "stream",
  importance: "ignored",
  quantize(row, target) {
    for (let at = 0, to = 0; at < row.length; at += 64, to += 36) {
      for (let j = 0; j < 4; j++) {
        const scale = encodeScale(f(Math.abs(signedExtreme(row, at + 16 * j, 16)) / 6));
        target[to + j] = scale;
        packCodes(scaleStep(scale), 8, row, at + 16 * j, target, to + 4 + 8 * j);
      }
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 64, from += 36) {
      for (let j = 0; j < 4; j++) {
        unpackCodes(scaleStep(source[from + j] ?? 0), 8, source, from + 4 + 8 * j, target, at + 16 * j);
      }
    }
  },
  limits: {
    width: 16,
    read(source, low, high) {
      for (let at = 0, from = 0; from < source.length; at += 4, from += 36) {
        for (let j = 0; j < 4; j++) limitCodes(scaleStep(source[from + j] ?? 0), at + j, low, high);
      }
    },
  },
} satisfies BlockScheme);
