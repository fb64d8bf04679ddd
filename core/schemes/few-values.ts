// TQ1_0, TQ2_0 and Q1_0: weights of three or two values under one scale.
import { readHalf, roundHalfAway, writeHalf } from "./bits.ts";
import { setLimits } from "./limits.ts";
import type { BlockScheme } from "./scheme.ts";
import { signedExtreme } from "./search.ts";

const f = Math.fround;
const trits = new Uint8Array(256);

/** d = max|x|; each value as 0, 1 or 2: round(x / d) + 1, halves away from zero. Returns d. */
function ternary(row: Float32Array, at: number): number {
  const d = Math.abs(signedExtreme(row, at, 256));
  const inverse = d === 0 ? 0 : f(1 / d);
  for (let i = 0; i < 256; i++) trits[i] = roundHalfAway(f((row[at + i] ?? 0) * inverse)) + 1;
  return d;
}

/** Where the values of a block stand: runs of bytes that hold `digits` values each, `width` apart. */
const RUNS = [
  { byte: 0, width: 32, first: 0, digits: 5 },
  { byte: 32, width: 16, first: 160, digits: 5 },
  { byte: 48, width: 4, first: 240, digits: 4 },
] as const;
const TQ1_D = 52;

/** x ~ d (q - 1); five values a byte as a fraction of 3^5, so that each digit is a product's upper bits. */
export const tq1_0 = Object.freeze({
  id: "tq1_0",
  title: "ternary, 1.69 bits (TQ1_0)",
  source: "ggml TQ1_0",
  blockElements: 256,
  blockBytes: 54,
  needs: "stream",
  importance: "ignored",
  quantize(row, target) {
    for (let at = 0, to = 0; at < row.length; at += 256, to += 54) {
      writeHalf(target, to + TQ1_D, ternary(row, at));
      for (const { byte, width, first, digits } of RUNS) {
        for (let i = 0; i < width; i++) {
          let number = 0;
          for (let digit = 0; digit < digits; digit++) number = 3 * number + (trits[first + i + width * digit] ?? 0);
          if (digits === 4) number *= 3;
          target[to + byte + i] = Math.floor((256 * number + 242) / 243);
        }
      }
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 256, from += 54) {
      const d = readHalf(source, from + TQ1_D);
      for (const { byte, width, first, digits } of RUNS) {
        for (let i = 0; i < width; i++) {
          let rest = source[from + byte + i] ?? 0;
          for (let digit = 0; digit < digits; digit++) {
            target[at + first + i + width * digit] = (((3 * rest) >> 8) - 1) * d;
            rest = (3 * rest) & 0xff;
          }
        }
      }
    }
  },
  limits: undefined,
} satisfies BlockScheme);

const TQ2_D = 64;

/** x ~ d (q - 1), two bits each. */
export const tq2_0 = Object.freeze({
  id: "tq2_0",
  title: "ternary, 2.06 bits (TQ2_0)",
  source: "ggml TQ2_0",
  blockElements: 256,
  blockBytes: 66,
  needs: "stream",
  importance: "ignored",
  quantize(row, target) {
    for (let at = 0, to = 0; at < row.length; at += 256, to += 66) {
      writeHalf(target, to + TQ2_D, ternary(row, at));
      for (let i = 0; i < 64; i++) {
        const first = 128 * (i >> 5) + (i & 31);
        let byte = 0;
        for (let part = 0; part < 4; part++) byte |= (trits[first + 32 * part] ?? 0) << (2 * part);
        target[to + i] = byte;
      }
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 256, from += 66) {
      const d = readHalf(source, from + TQ2_D);
      for (let i = 0; i < 256; i++) {
        const byte = source[from + 32 * (i >> 7) + (i & 31)] ?? 0;
        target[at + i] = (((byte >> (2 * ((i >> 5) & 3))) & 3) - 1) * d;
      }
    }
  },
  limits: undefined,
} satisfies BlockScheme);

/** x ~ d or -d: d = mean|x|, the sum in order; a set bit is plus. */
export const q1_0 = Object.freeze({
  id: "q1_0",
  title: "signs, scale for 128 (Q1_0)",
  source: "ggml Q1_0; XNOR-Net, arXiv:1603.05279",
  blockElements: 128,
  blockBytes: 18,
  needs: "stream",
  importance: "ignored",
  quantize(row, target) {
    for (let at = 0, to = 0; at < row.length; at += 128, to += 18) {
      let sum = 0;
      for (let i = 0; i < 128; i++) sum = f(sum + Math.abs(row[at + i] ?? 0));
      writeHalf(target, to, f(sum / 128));
      for (let byte = 0; byte < 16; byte++) {
        let signs = 0;
        for (let bit = 0; bit < 8; bit++) signs |= ((row[at + 8 * byte + bit] ?? 0) >= 0 ? 1 : 0) << bit;
        target[to + 2 + byte] = signs;
      }
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 128, from += 18) {
      const d = readHalf(source, from);
      for (let i = 0; i < 128; i++) {
        target[at + i] = (((source[from + 2 + (i >> 3)] ?? 0) >> (i & 7)) & 1) === 1 ? d : -d;
      }
    }
  },
  limits: {
    width: 128,
    read(source, low, high) {
      for (let at = 0, from = 0; from < source.length; at++, from += 18) {
        const d = readHalf(source, from);
        setLimits(low, high, at, -d, d, d);
      }
    },
  },
} satisfies BlockScheme);
