// Q2_K, Q4_K and Q5_K: super-blocks of 256 whose sub-blocks have an integer scale and minimum each, under two F16
// scales. The search finds real scales and minima, these are rounded, and the codes are then chosen again for the
// rounded ones.
import { nearest, nearestWithin, readHalf, writeHalf } from "./bits.ts";
import { setLimits } from "./limits.ts";
import type { BlockScheme } from "./scheme.ts";
import {
  type AffineSearch,
  found,
  importanceSearch,
  searchAffine,
  searchPositive,
  sumOfSquares,
  weighByImportance,
} from "./search.ts";

const f = Math.fround;
const N = 256;
const codes = new Uint8Array(N);
const weights = new Float32Array(32);
const [scales, minima, sums] = [new Float32Array(16), new Float32Array(16), new Float32Array(16)];
const [scaleCodes, minimumCodes] = [new Uint8Array(16), new Uint8Array(16)];

type Layout = {
  readonly sub: 16 | 32;
  /** Largest scale and minimum code. */
  readonly scaleMax: 15 | 63;
  readonly search: AffineSearch;
  readonly importanceFactor: 1 | 2;
  readonly blockBytes: number;
  /** Byte offsets of d and dmin in the block. */
  readonly d: number;
  weigh(row: Float32Array, at: number): void;
  /** Scale codes, minimum codes and codes into the block, and back. */
  pack(target: Uint8Array, block: number): void;
  unpackScales(source: Uint8Array, block: number): void;
  unpackCodes(source: Uint8Array, block: number): void;
};

/** w = |x|. */
function weighByMagnitude(row: Float32Array, at: number): void {
  for (let i = 0; i < 16; i++) weights[i] = Math.abs(row[at + i] ?? 0);
}

/** w = rms of the sub-block + |x|. */
function weighByRms(row: Float32Array, at: number): void {
  const rms = f(Math.sqrt(f(sumOfSquares(row, at, 32) / 32)));
  for (let i = 0; i < 32; i++) weights[i] = f(rms + Math.abs(row[at + i] ?? 0));
}

/** Rounds sub-block parameters to codes by their largest and returns the common scale. */
function roundByLargest(values: Float32Array, count: number, max: number, into: Uint8Array): number {
  let largest = 0;
  for (let j = 0; j < count; j++) {
    if ((values[j] ?? 0) > largest) largest = values[j] ?? 0;
  }
  const inverse = largest > 0 ? f(max / largest) : 0;
  for (let j = 0; j < count; j++) into[j] = Math.min(max, nearest(f(inverse * (values[j] ?? 0))));
  return f(largest / max);
}

function quantizeBlock(
  layout: Layout,
  row: Float32Array,
  at: number,
  target: Uint8Array,
  to: number,
  importance: Float32Array | undefined,
): void {
  const { sub, scaleMax, search } = layout;
  const count = N / sub;
  const weighted = importanceSearch(sub, search.nmax);
  const sigma2 = importance === undefined ? 0 : f((layout.importanceFactor * sumOfSquares(row, at, N)) / N);
  for (let j = 0; j < count; j++) {
    const start = at + sub * j;
    if (importance === undefined) layout.weigh(row, start);
    else sums[j] = weighByImportance(row, importance, start, sigma2, weights, sub);
    scales[j] = searchAffine(importance === undefined ? search : weighted, row, start, weights, codes, sub * j);
    minima[j] = found.minimum;
  }
  const isWeighted = importance !== undefined;
  const scale = isWeighted
    ? searchPositive(count, scaleMax, scales, sums, scaleCodes)
    : roundByLargest(scales, count, scaleMax, scaleCodes);
  const minimum = isWeighted
    ? searchPositive(count, scaleMax, minima, sums, minimumCodes)
    : roundByLargest(minima, count, scaleMax, minimumCodes);
  const d = writeHalf(target, to + layout.d, scale);
  const dmin = writeHalf(target, to + layout.d + 2, minimum);
  for (let j = 0; j < count; j++) {
    const step = f(d * (scaleCodes[j] ?? 0));
    if (step === 0) continue;
    const offset = f(dmin * (minimumCodes[j] ?? 0));
    for (let i = sub * j; i < sub * (j + 1); i++) {
      codes[i] = nearestWithin(f(f((row[at + i] ?? 0) + offset) / step), 0, search.nmax);
    }
  }
  layout.pack(target, to);
}

function kScheme(id: string, title: string, layout: Layout): BlockScheme {
  const { sub, blockBytes } = layout;
  return Object.freeze({
    id,
    title,
    source: `ggml ${id.toUpperCase()}`,
    blockElements: N,
    blockBytes,
    needs: "stream",
    importance: "stream",
    quantize(row, target, importance) {
      for (let at = 0, to = 0; at < row.length; at += N, to += blockBytes) {
        quantizeBlock(layout, row, at, target, to, importance);
      }
    },
    dequantize(source, target) {
      for (let at = 0, from = 0; at < target.length; at += N, from += blockBytes) {
        layout.unpackScales(source, from);
        layout.unpackCodes(source, from);
        const [d, dmin] = [readHalf(source, from + layout.d), readHalf(source, from + layout.d + 2)];
        for (let i = 0; i < N; i++) {
          const j = Math.floor(i / sub);
          const [step, offset] = [f(d * (scaleCodes[j] ?? 0)), f(dmin * (minimumCodes[j] ?? 0))];
          target[at + i] = f(f(step * (codes[i] ?? 0)) - offset);
        }
      }
    },
    limits: {
      width: sub,
      read(source, low, high) {
        for (let at = 0, from = 0; from < source.length; at += N / sub, from += blockBytes) {
          layout.unpackScales(source, from);
          const [d, dmin] = [readHalf(source, from + layout.d), readHalf(source, from + layout.d + 2)];
          for (let j = 0; j < N / sub; j++) {
            const [step, offset] = [d * (scaleCodes[j] ?? 0), dmin * (minimumCodes[j] ?? 0)];
            setLimits(low, high, at + j, -offset, step * layout.search.nmax - offset, step / 2);
          }
        }
      },
    },
  } satisfies BlockScheme);
}

/** Eight 6-bit scales and minima in twelve bytes: the upper bits of the last four stand above the first eight bytes. */
function packSixBits(target: Uint8Array, at: number): void {
  for (let j = 0; j < 4; j++) {
    const [scale, minimum] = [scaleCodes[j + 4] ?? 0, minimumCodes[j + 4] ?? 0];
    target[at + j] = (scaleCodes[j] ?? 0) | ((scale >> 4) << 6);
    target[at + j + 4] = (minimumCodes[j] ?? 0) | ((minimum >> 4) << 6);
    target[at + j + 8] = (scale & 15) | ((minimum & 15) << 4);
  }
}

function unpackSixBits(source: Uint8Array, at: number): void {
  for (let j = 0; j < 4; j++) {
    const [a, b, c] = [source[at + j] ?? 0, source[at + j + 4] ?? 0, source[at + j + 8] ?? 0];
    scaleCodes[j] = a & 63;
    minimumCodes[j] = b & 63;
    scaleCodes[j + 4] = (c & 15) | ((a >> 6) << 4);
    minimumCodes[j + 4] = (c >> 4) | ((b >> 6) << 4);
  }
}

/** 64 values in 32 bytes: low nibbles are the first 32, high nibbles the next. */
function packNibbles(target: Uint8Array, at: number): void {
  for (let i = 0; i < 128; i++) {
    const first = 64 * (i >> 5) + (i & 31);
    target[at + i] = ((codes[first] ?? 0) & 15) | (((codes[first + 32] ?? 0) & 15) << 4);
  }
}

function unpackNibbles(source: Uint8Array, at: number): void {
  for (let i = 0; i < 128; i++) {
    const [first, byte] = [64 * (i >> 5) + (i & 31), source[at + i] ?? 0];
    codes[first] = byte & 15;
    codes[first + 32] = byte >> 4;
  }
}

const Q2_LAYOUT: Layout = {
  sub: 16,
  scaleMax: 15,
  search: { n: 16, nmax: 3, first: -0.5, delta: f(0.1), steps: 15, isAbsolute: true },
  importanceFactor: 1,
  blockBytes: 84,
  d: 80,
  weigh: weighByMagnitude,
  pack(target, block) {
    for (let j = 0; j < 16; j++) target[block + j] = (scaleCodes[j] ?? 0) | ((minimumCodes[j] ?? 0) << 4);
    for (let i = 0; i < 64; i++) {
      const first = 128 * (i >> 5) + (i & 31);
      let byte = 0;
      for (let part = 0; part < 4; part++) byte |= (codes[first + 32 * part] ?? 0) << (2 * part);
      target[block + 16 + i] = byte;
    }
  },
  unpackScales(source, block) {
    for (let j = 0; j < 16; j++) {
      scaleCodes[j] = (source[block + j] ?? 0) & 15;
      minimumCodes[j] = (source[block + j] ?? 0) >> 4;
    }
  },
  unpackCodes(source, block) {
    for (let i = 0; i < 64; i++) {
      const first = 128 * (i >> 5) + (i & 31);
      for (let part = 0; part < 4; part++) {
        codes[first + 32 * part] = ((source[block + 16 + i] ?? 0) >> (2 * part)) & 3;
      }
    }
  },
};

const Q4_LAYOUT: Layout = {
  sub: 32,
  scaleMax: 63,
  search: { n: 32, nmax: 15, first: -1, delta: f(0.1), steps: 20, isAbsolute: false },
  importanceFactor: 2,
  blockBytes: 144,
  d: 0,
  weigh: weighByRms,
  pack(target, block) {
    packSixBits(target, block + 4);
    packNibbles(target, block + 16);
  },
  unpackScales: (source, block) => unpackSixBits(source, block + 4),
  unpackCodes: (source, block) => unpackNibbles(source, block + 16),
};

const Q5_LAYOUT: Layout = {
  ...Q4_LAYOUT,
  search: { n: 32, nmax: 31, first: -0.5, delta: f(0.1), steps: 15, isAbsolute: false },
  blockBytes: 176,
  pack(target, block) {
    packSixBits(target, block + 4);
    for (let i = 0; i < 32; i++) {
      let high = 0;
      for (let part = 0; part < 8; part++) high |= ((codes[32 * part + i] ?? 0) >> 4) << part;
      target[block + 16 + i] = high;
    }
    packNibbles(target, block + 48);
  },
  unpackCodes(source, block) {
    unpackNibbles(source, block + 48);
    for (let i = 0; i < N; i++) {
      codes[i] = (codes[i] ?? 0) | ((((source[block + 16 + (i & 31)] ?? 0) >> (i >> 5)) & 1) << 4);
    }
  },
};

export const q2_k = kScheme("q2_k", "2 bits in super-blocks of 256 (Q2_K)", Q2_LAYOUT);
export const q4_k = kScheme("q4_k", "4 bits in super-blocks of 256 (Q4_K)", Q4_LAYOUT);
export const q5_k = kScheme("q5_k", "5 bits in super-blocks of 256 (Q5_K)", Q5_LAYOUT);
