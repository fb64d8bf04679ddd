// IQ4_NL and IQ4_XS: 4-bit codes into a table of unequal steps; a scale for 32, in IQ4_XS a 6-bit one under an F16.
import { nearestWithin, readHalf, writeHalf } from "./bits.ts";
import { setLimits } from "./limits.ts";
import type { BlockScheme } from "./scheme.ts";
import { signedExtreme, sumOfSquares, weighByImportance, weighBySquare, ZERO_BELOW } from "./search.ts";

const f = Math.fround;
const SUB = 32;
const TABLE = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
const LOWEST = -127;
const weights = new Float32Array(SUB);
const codes = new Uint8Array(SUB);

/** Index of the nearest entry of the table; a tie goes to the upper one. */
function nearestEntry(value: number): number {
  if (value <= LOWEST) return 0;
  if (value >= 113) return 15;
  let low = 0;
  let high = 15;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (value < (TABLE[middle] ?? 0)) high = middle;
    else low = middle;
  }
  return f(value - (TABLE[high - 1] ?? 0)) < f((TABLE[high] ?? 0) - value) ? high - 1 : high;
}

/** The scale d that loses least of 16 candidates: maximizes S(w q x)^2 / S(w q q) of the entries nearest to x / d. */
function searchScale(row: Float32Array, at: number): number {
  const extreme = signedExtreme(row, at, SUB);
  if (Math.abs(extreme) < ZERO_BELOW) return 0;
  let d = 0;
  let best = 0;
  for (let step = -8; step <= 7; step++) {
    // Step -8 stands for the start, at which the extreme takes the lowest entry.
    const inverse = step === -8 ? f(1 / f(-extreme / LOWEST)) : f((step + LOWEST) / extreme);
    let sumQx = 0;
    let sumQ2 = 0;
    for (let i = 0; i < SUB; i++) {
      const value = row[at + i] ?? 0;
      const weight = weights[i] ?? 0;
      const q = TABLE[nearestEntry(f(inverse * value))] ?? 0;
      const product = f(weight * q);
      sumQx = f(sumQx + f(product * value));
      sumQ2 = f(sumQ2 + f(product * q));
    }
    if (step === -8 || (sumQ2 > 0 && f(sumQx * sumQx) > f(best * sumQ2))) {
      d = f(sumQx / sumQ2);
      best = f(d * sumQx);
    }
  }
  return d;
}

function weigh(row: Float32Array, at: number, sigma2: number, importance: Float32Array | undefined): void {
  if (importance === undefined) weighBySquare(row, at, weights, SUB);
  else weighByImportance(row, importance, at, sigma2, weights, SUB);
}

function packCodes(d: number, row: Float32Array, at: number, target: Uint8Array, to: number): void {
  const inverse = d === 0 ? 0 : f(1 / d);
  for (let i = 0; i < SUB; i++) codes[i] = nearestEntry(f(inverse * (row[at + i] ?? 0)));
  for (let i = 0; i < 16; i++) target[to + i] = (codes[i] ?? 0) | ((codes[i + 16] ?? 0) << 4);
}

function unpackCodes(d: number, source: Uint8Array, from: number, target: Float32Array, at: number): void {
  for (let i = 0; i < 16; i++) {
    const byte = source[from + i] ?? 0;
    target[at + i] = d * (TABLE[byte & 15] ?? 0);
    target[at + i + 16] = d * (TABLE[byte >> 4] ?? 0);
  }
}

/** Half the step at either end of the table, about. */
const END_MARGIN = 11.75;

function limitCodes(d: number, at: number, low: Float32Array, high: Float32Array): void {
  setLimits(low, high, at, LOWEST * d, 113 * d, END_MARGIN * d);
}

/** x ~ d T[q], d an F16 for 32 values. */
export const iq4_nl = Object.freeze({
  id: "iq4_nl",
  title: "4 bits, table of unequal steps, scale for 32 (IQ4_NL)",
  source: "ggml IQ4_NL",
  blockElements: SUB,
  blockBytes: 18,
  needs: "stream",
  importance: "stream",
  quantize(row, target, importance) {
    for (let at = 0, to = 0; at < row.length; at += SUB, to += 18) {
      weigh(row, at, f((2 * sumOfSquares(row, at, SUB)) / SUB), importance);
      const d = searchScale(row, at);
      writeHalf(target, to, d);
      packCodes(d, row, at, target, to + 2);
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += SUB, from += 18) {
      unpackCodes(readHalf(source, from), source, from + 2, target, at);
    }
  },
  limits: {
    width: SUB,
    read(source, low, high) {
      for (let at = 0, from = 0; from < source.length; at++, from += 18) {
        limitCodes(readHalf(source, from), at, low, high);
      }
    },
  },
} satisfies BlockScheme);

const scales = new Float32Array(8);

/** Signed scale of sub-block j of the block at `from`. */
function subScale(source: Uint8Array, from: number, j: number): number {
  const low = ((source[from + 4 + (j >> 1)] ?? 0) >> (4 * (j & 1))) & 15;
  const high = ((source[from + 2 + (j >> 2)] ?? 0) >> (2 * (j & 3))) & 3;
  return (low | (high << 4)) - 32;
}

/** x ~ d (ls - 32) T[q], d an F16 for 256 values, ls six bits for 32. */
export const iq4_xs = Object.freeze({
  id: "iq4_xs",
  title: "4 bits, table of unequal steps, super-blocks of 256 (IQ4_XS)",
  source: "ggml IQ4_XS",
  blockElements: 256,
  blockBytes: 136,
  needs: "stream",
  importance: "stream",
  quantize(row, target, importance) {
    for (let at = 0, to = 0; at < row.length; at += 256, to += 136) {
      const sigma2 = f((2 * sumOfSquares(row, at, 256)) / 256);
      for (let j = 0; j < 8; j++) {
        weigh(row, at + SUB * j, sigma2, importance);
        scales[j] = searchScale(row, at + SUB * j);
      }
      const d = f(-signedExtreme(scales, 0, 8) / 32);
      const inverse = d === 0 ? 0 : f(1 / d);
      writeHalf(target, to, d);
      target.fill(0, to + 2, to + 8);
      for (let j = 0; j < 8; j++) {
        const code = nearestWithin(f(inverse * (scales[j] ?? 0)), -32, 31);
        packCodes(f(d * code), row, at + SUB * j, target, to + 8 + 16 * j);
        const low = to + 4 + (j >> 1);
        const high = to + 2 + (j >> 2);
        target[low] = (target[low] ?? 0) | (((code + 32) & 15) << (4 * (j & 1)));
        target[high] = (target[high] ?? 0) | (((code + 32) >> 4) << (2 * (j & 3)));
      }
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 256, from += 136) {
      const d = readHalf(source, from);
      for (let j = 0; j < 8; j++) {
        unpackCodes(f(d * subScale(source, from, j)), source, from + 8 + 16 * j, target, at + SUB * j);
      }
    }
  },
  limits: {
    width: SUB,
    read(source, low, high) {
      for (let at = 0, from = 0; from < source.length; at += 8, from += 136) {
        const d = readHalf(source, from);
        for (let j = 0; j < 8; j++) limitCodes(d * subScale(source, from, j), at + j, low, high);
      }
    },
  },
} satisfies BlockScheme);
