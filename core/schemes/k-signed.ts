// Q3_K and Q6_K: super-blocks of 256, sixteen sub-blocks with a signed integer scale each and one F16 scale over them.
import { nearest, nearestWithin, readHalf, writeHalf } from "./bits.ts";
import { setLimits } from "./limits.ts";
import type { BlockScheme } from "./scheme.ts";
import {
  descendSigned,
  searchSigned,
  signedExtreme,
  sumOfSquares,
  weighByImportance,
  weighBySquare,
  ZERO_BELOW,
} from "./search.ts";

const f = Math.fround;
const N = 256;
const SUB = 16;
const codes = new Uint8Array(N);
const weights = new Float32Array(SUB);
const [scales, sums] = [new Float32Array(SUB), new Float32Array(SUB)];
const offsetCodes = new Uint8Array(SUB);
const scaleCodes = new Int8Array(SUB);

/** Codes again, for the scales as they are stored; a sub-block without a scale keeps those of the search. */
function requantize(d: number, half: number, row: Float32Array, at: number): void {
  for (let j = 0; j < SUB; j++) {
    const step = f(d * (scaleCodes[j] ?? 0));
    if (step === 0) continue;
    for (let i = SUB * j; i < SUB * (j + 1); i++) {
      codes[i] = nearestWithin(f((row[at + i] ?? 0) / step), -half, half - 1) + half;
    }
  }
}

function dequantizeBlock(d: number, half: number, target: Float32Array, at: number): void {
  for (let i = 0; i < N; i++) target[at + i] = f(f(d * (scaleCodes[i >> 4] ?? 0)) * ((codes[i] ?? 0) - half));
}

/** Where the codes of block `block` end, by its unpacked scales. */
function limitBlock(d: number, half: number, block: number, low: Float32Array, high: Float32Array): void {
  for (let j = 0; j < SUB; j++) {
    const step = d * (scaleCodes[j] ?? 0);
    setLimits(low, high, SUB * block + j, -half * step, (half - 1) * step, step / 2);
  }
}

/** Scales of the sub-blocks of Q3_K; returns the real d. */
function scaleQ3(row: Float32Array, at: number, importance: Float32Array | undefined): number {
  const sigma2 = importance === undefined ? 0 : f((2 * sumOfSquares(row, at, N)) / N);
  for (let j = 0; j < SUB; j++) {
    const start = at + SUB * j;
    if (importance === undefined) {
      weighBySquare(row, start, weights, SUB);
      scales[j] = descendSigned(SUB, 4, row, start, weights, codes, SUB * j);
    } else {
      sums[j] = weighByImportance(row, importance, start, sigma2, weights, SUB);
      scales[j] = searchSigned(SUB, 4, row, start, weights, codes, SUB * j);
    }
  }
  if (importance !== undefined) return searchSigned(SUB, 32, scales, 0, sums, offsetCodes, 0);
  const extreme = signedExtreme(scales, 0, SUB);
  offsetCodes.fill(0);
  if (extreme === 0) return 0;
  const inverse = f(-32 / extreme);
  for (let j = 0; j < SUB; j++) offsetCodes[j] = nearestWithin(f(inverse * (scales[j] ?? 0)), -32, 31) + 32;
  return f(1 / inverse);
}

const Q3_D = 108;

/** x ~ d (sc - 32) (q - 4): 3-bit codes, 6-bit scales. */
export const q3_k = Object.freeze({
  id: "q3_k",
  title: "3 bits in super-blocks of 256 (Q3_K)",
  source: "ggml Q3_K",
  blockElements: N,
  blockBytes: 110,
  needs: "stream",
  importance: "stream",
  quantize(row, target, importance) {
    for (let at = 0, to = 0; at < row.length; at += N, to += 110) {
      const d = writeHalf(target, to + Q3_D, scaleQ3(row, at, importance));
      for (let j = 0; j < SUB; j++) scaleCodes[j] = (offsetCodes[j] ?? 0) - 32;
      requantize(d, 4, row, at);
      packQ3(target, to);
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += N, from += 110) {
      unpackQ3(source, from);
      unpackQ3Scales(source, from);
      dequantizeBlock(readHalf(source, from + Q3_D), 4, target, at);
    }
  },
  limits: {
    width: SUB,
    read(source, low, high) {
      for (let block = 0, from = 0; from < source.length; block++, from += 110) {
        unpackQ3Scales(source, from);
        limitBlock(readHalf(source, from + Q3_D), 4, block, low, high);
      }
    },
  },
} satisfies BlockScheme);

/** Third bits, then the low two bits, then the scales. */
function packQ3(target: Uint8Array, block: number): void {
  for (let i = 0; i < 32; i++) {
    let high = 0;
    for (let part = 0; part < 8; part++) high |= ((codes[32 * part + i] ?? 0) >> 2) << part;
    target[block + i] = high;
  }
  for (let i = 0; i < 64; i++) {
    const first = 128 * (i >> 5) + (i & 31);
    let byte = 0;
    for (let part = 0; part < 4; part++) byte |= ((codes[first + 32 * part] ?? 0) & 3) << (2 * part);
    target[block + 32 + i] = byte;
  }
  target.fill(0, block + 96, block + Q3_D);
  for (let j = 0; j < SUB; j++) {
    const code = offsetCodes[j] ?? 0;
    const [low, high] = [block + 96 + (j & 7), block + 104 + (j & 3)];
    target[low] = (target[low] ?? 0) | ((code & 15) << (j < 8 ? 0 : 4));
    target[high] = (target[high] ?? 0) | ((code >> 4) << (2 * (j >> 2)));
  }
}

function unpackQ3(source: Uint8Array, block: number): void {
  for (let i = 0; i < N; i++) {
    const low = (source[block + 32 + 32 * (i >> 7) + (i & 31)] ?? 0) >> (2 * ((i >> 5) & 3));
    const high = ((source[block + (i & 31)] ?? 0) >> (i >> 5)) & 1;
    codes[i] = (low & 3) | (high << 2);
  }
}

function unpackQ3Scales(source: Uint8Array, block: number): void {
  for (let j = 0; j < SUB; j++) {
    const low = ((source[block + 96 + (j & 7)] ?? 0) >> (j < 8 ? 0 : 4)) & 15;
    const high = ((source[block + 104 + (j & 3)] ?? 0) >> (2 * (j >> 2))) & 3;
    scaleCodes[j] = (low | (high << 4)) - 32;
  }
}

const Q6_D = 208;

/** x ~ d sc (q - 32): 6-bit codes, 8-bit scales. */
export const q6_k = Object.freeze({
  id: "q6_k",
  title: "6 bits in super-blocks of 256 (Q6_K)",
  source: "ggml Q6_K",
  blockElements: N,
  blockBytes: 210,
  needs: "stream",
  importance: "stream",
  quantize(row, target, importance) {
    for (let at = 0, to = 0; at < row.length; at += N, to += 210) {
      for (let j = 0; j < SUB; j++) {
        const start = at + SUB * j;
        if (importance === undefined) weighBySquare(row, start, weights, SUB);
        else weights.set(importance.subarray(start, start + SUB));
        scales[j] = searchSigned(SUB, 32, row, start, weights, codes, SUB * j);
      }
      const extreme = signedExtreme(scales, 0, SUB);
      if (Math.abs(extreme) < ZERO_BELOW) {
        target.fill(0, to, to + 210);
        continue;
      }
      const inverse = f(-128 / extreme);
      for (let j = 0; j < SUB; j++) scaleCodes[j] = Math.min(127, nearest(f(inverse * (scales[j] ?? 0))));
      requantize(writeHalf(target, to + Q6_D, f(1 / inverse)), 32, row, at);
      packQ6(target, to);
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += N, from += 210) {
      unpackQ6(source, from);
      unpackQ6Scales(source, from);
      dequantizeBlock(readHalf(source, from + Q6_D), 32, target, at);
    }
  },
  limits: {
    width: SUB,
    read(source, low, high) {
      for (let block = 0, from = 0; from < source.length; block++, from += 210) {
        unpackQ6Scales(source, from);
        limitBlock(readHalf(source, from + Q6_D), 32, block, low, high);
      }
    },
  },
} satisfies BlockScheme);

/** Low four bits of 128 values in 64 bytes, their upper two in 32 bytes; twice; then the scales. */
function packQ6(target: Uint8Array, block: number): void {
  for (let half = 0; half < 2; half++) {
    for (let l = 0; l < 32; l++) {
      const at = 128 * half + l;
      const [a, b, c, d] = [codes[at] ?? 0, codes[at + 32] ?? 0, codes[at + 64] ?? 0, codes[at + 96] ?? 0];
      target[block + 64 * half + l] = (a & 15) | ((c & 15) << 4);
      target[block + 64 * half + l + 32] = (b & 15) | ((d & 15) << 4);
      target[block + 128 + 32 * half + l] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6);
    }
  }
  for (let j = 0; j < SUB; j++) target[block + 192 + j] = scaleCodes[j] ?? 0;
}

function unpackQ6(source: Uint8Array, block: number): void {
  for (let i = 0; i < N; i++) {
    const [half, part, l] = [i >> 7, (i >> 5) & 3, i & 31];
    const low = ((source[block + 64 * half + 32 * (part & 1) + l] ?? 0) >> (part < 2 ? 0 : 4)) & 15;
    const high = ((source[block + 128 + 32 * half + l] ?? 0) >> (2 * part)) & 3;
    codes[i] = low | (high << 4);
  }
}

function unpackQ6Scales(source: Uint8Array, block: number): void {
  for (let j = 0; j < SUB; j++) scaleCodes[j] = source[block + 192 + j] ?? 0;
}
