// Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 codes of 4 or 5 bits with a scale, or a scale and a minimum. Low nibbles hold
// the first half of the block, high nibbles the second; the fifth bits stand together in one word.
import { readHalf, writeHalf } from "./bits.ts";
import { setLimits } from "./limits.ts";
import type { BlockScheme } from "./scheme.ts";
import {
  found,
  importanceSearch,
  searchAffine,
  searchSigned,
  signedExtreme,
  sumOfSquares,
  weighByImportance,
} from "./search.ts";

const f = Math.fround;
const N = 32;
const codes = new Uint8Array(N);
const weights = new Float32Array(N);

type Layout = { readonly bits: 4 | 5; readonly isAffine: boolean };

function bytesOf({ bits, isAffine }: Layout): number {
  return 2 + (isAffine ? 2 : 0) + (bits === 5 ? 4 : 0) + 16;
}

function pack(layout: Layout, target: Uint8Array, block: number): void {
  let at = block + (layout.isAffine ? 4 : 2);
  if (layout.bits === 5) {
    for (let byte = 0; byte < 4; byte++) {
      let high = 0;
      for (let bit = 0; bit < 8; bit++) high |= ((codes[8 * byte + bit] ?? 0) >> 4) << bit;
      target[at++] = high;
    }
  }
  for (let i = 0; i < 16; i++) target[at + i] = ((codes[i] ?? 0) & 15) | (((codes[i + 16] ?? 0) & 15) << 4);
}

function unpack(layout: Layout, source: Uint8Array, block: number): void {
  const high = block + (layout.isAffine ? 4 : 2);
  const at = high + (layout.bits === 5 ? 4 : 0);
  for (let i = 0; i < N; i++) {
    const byte = source[at + (i & 15)] ?? 0;
    const fifth = layout.bits === 5 ? (((source[high + (i >> 3)] ?? 0) >> (i & 7)) & 1) << 4 : 0;
    codes[i] = (i < 16 ? byte & 15 : byte >> 4) | fifth;
  }
}

/** d = extreme / -half; q = trunc(x / d + half + 0.5), at most 2 half - 1: the extreme always has code 0. */
function quantizeSigned(half: number, row: Float32Array, at: number, target: Uint8Array, to: number): void {
  const d = f(signedExtreme(row, at, N) / -half);
  const inverse = d === 0 ? 0 : f(1 / d);
  writeHalf(target, to, d);
  for (let i = 0; i < N; i++) {
    codes[i] = Math.min(2 * half - 1, Math.trunc(f(f((row[at + i] ?? 0) * inverse) + (half + 0.5))));
  }
}

/** d = (max - min) / (levels - 1), m = min, q = trunc((x - min) / d + 0.5). */
function quantizeAffine(nmax: number, row: Float32Array, at: number, target: Uint8Array, to: number): void {
  let [min, max] = [row[at] ?? 0, row[at] ?? 0];
  for (let i = 1; i < N; i++) {
    const value = row[at + i] ?? 0;
    if (value < min) min = value;
    if (value > max) max = value;
  }
  const d = f(f(max - min) / nmax);
  const inverse = d === 0 ? 0 : f(1 / d);
  writeHalf(target, to, d);
  writeHalf(target, to + 2, min);
  for (let i = 0; i < N; i++) {
    codes[i] = Math.min(nmax, Math.trunc(f(f(f((row[at + i] ?? 0) - min) * inverse) + 0.5)));
  }
}

/** The same formats with weights: codes come straight from the search. */
function quantizeWeighted(layout: Layout, row: Float32Array, at: number, target: Uint8Array, to: number): void {
  const half = 1 << (layout.bits - 1);
  if (!layout.isAffine) {
    writeHalf(target, to, searchSigned(N, half, row, at, weights, codes, 0));
    return;
  }
  writeHalf(target, to, searchAffine(importanceSearch(N, 2 * half - 1), row, at, weights, codes, 0));
  writeHalf(target, to + 2, -found.minimum);
}

function blockScheme(id: string, title: string, layout: Layout): BlockScheme {
  const half = 1 << (layout.bits - 1);
  const blockBytes = bytesOf(layout);
  return Object.freeze({
    id,
    title,
    source: `ggml ${id.toUpperCase()}`,
    blockElements: N,
    blockBytes,
    needs: "stream",
    importance: "row",
    quantize(row, target, importance) {
      const sigma2 = importance === undefined ? 0 : f(sumOfSquares(row, 0, row.length) / row.length);
      for (let at = 0, to = 0; at < row.length; at += N, to += blockBytes) {
        if (importance !== undefined) {
          weighByImportance(row, importance, at, sigma2, weights, N);
          quantizeWeighted(layout, row, at, target, to);
        } else if (layout.isAffine) quantizeAffine(2 * half - 1, row, at, target, to);
        else quantizeSigned(half, row, at, target, to);
        pack(layout, target, to);
      }
    },
    dequantize(source, target) {
      for (let at = 0, from = 0; at < target.length; at += N, from += blockBytes) {
        unpack(layout, source, from);
        const d = readHalf(source, from);
        const m = layout.isAffine ? readHalf(source, from + 2) : 0;
        for (let i = 0; i < N; i++) {
          const code = codes[i] ?? 0;
          target[at + i] = layout.isAffine ? f(f(code * d) + m) : (code - half) * d;
        }
      }
    },
    limits: {
      width: N,
      read(source, low, high) {
        for (let at = 0, from = 0; from < source.length; at++, from += blockBytes) {
          const d = readHalf(source, from);
          const first = layout.isAffine ? readHalf(source, from + 2) : -half * d;
          setLimits(low, high, at, first, first + (2 * half - 1) * d, d / 2);
        }
      },
    },
  } satisfies BlockScheme);
}

export const q4_0 = blockScheme("q4_0", "4 bits, scale for 32 (Q4_0)", { bits: 4, isAffine: false });
export const q4_1 = blockScheme("q4_1", "4 bits, scale and minimum for 32 (Q4_1)", { bits: 4, isAffine: true });
export const q5_0 = blockScheme("q5_0", "5 bits, scale for 32 (Q5_0)", { bits: 5, isAffine: false });
export const q5_1 = blockScheme("q5_1", "5 bits, scale and minimum for 32 (Q5_1)", { bits: 5, isAffine: true });
