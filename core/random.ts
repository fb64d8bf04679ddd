// Counter-based random numbers: Philox 4x32-10. The value of an element depends on (seed, names, element index) alone,
// so a mask is the same for any thread count, window or shard size, and any part of it can be made again.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.3; constants
// and known answers from the Random123 distribution.
import { digestJson } from "./artifact/digest.ts";
import { logarithm } from "./ops/exponential.ts";

const ROUNDS = 10;
/** Multipliers and key increments of Philox 4x32 (golden ratio and sqrt(3)-1); another value is another generator. */
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

const TWO_32 = 2 ** 32;
/** Random numbers are whole multiples of 1 / this: exact in float64, and always below 1. */
export const UNIFORM_STEPS = 2 ** 40;
/** Random words, and bytes, per counter. */
const LANES = 4;
const BYTES = 16;

/** The key of one stream of random numbers: two unsigned 32-bit words. */
export type StreamKey = readonly [low: number, high: number];

/**
 * Key of the stream of `seed` and `names` (for a merge: tensor name, then the model as the recipe spells it).
 * Definition: the first eight bytes of SHA-256 over the UTF-8 of the JSON array `["philox4x32-10", seed, ...names]`
 * without spaces, read as two big-endian words. Part of the numerics: another key is another mask.
 */
export function streamKey(seed: number, ...names: readonly string[]): StreamKey {
  const hex = digestJson(["philox4x32-10", seed, ...names]).replace("sha256:", "");
  return [Number.parseInt(hex.slice(0, 8), 16), Number.parseInt(hex.slice(8, 16), 16)];
}

/** One block: ten rounds over four counter words and two key words, all unsigned 32-bit; four words into `out`. */
export function philox4x32(counter: ArrayLike<number>, key: StreamKey, out: Uint32Array): void {
  let [c0, c1, c2, c3] = [counter[0] ?? 0, counter[1] ?? 0, counter[2] ?? 0, counter[3] ?? 0];
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round += 1) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/**
 * Value of element `index` of a stream: uniform on [0, 1) in steps of 2^-40, (byte 2^32 + word) / 2^40.
 * The byte is byte `index mod 16` (words in order, each little-endian) of the block whose counter is (low, high word of
 * `floor(index / 16)`, 0, 0); the word is word `index mod 4` of the block of counter (low, high word of
 * `floor(index / 4)`, 1, 0). Comparing with a threshold needs the word only when the bytes are equal, once in 256: a
 * block of four words then serves 16 elements.
 */
export function uniformAt(key: StreamKey, index: number): number {
  const words = new Uint32Array(LANES);
  fillBlock(key, Math.floor(index / BYTES), 0, words);
  const byte = ((words[(index % BYTES) >> 2] ?? 0) >>> (8 * (index & 3))) & 0xff;
  fillBlock(key, Math.floor(index / LANES), 1, words);
  return (byte * TWO_32 + (words[index % LANES] ?? 0)) / UNIFORM_STEPS;
}

/** Plane of the counters of `fillUniform` and `fillNormal`; planes 0 and 1 are masks'. */
const FILL_PLANE = 2;

/**
 * Elements first, first + 1, ... of a stream, each uniform on (0, 1): (word + 1/2) / 2^32, rounded to float32. The word
 * is word `index mod 4` of the block of counter (low, high word of `floor(index / 4)`, 2, 0).
 */
export function fillUniform(key: StreamKey, first: number, values: Float32Array): void {
  fill(key, first, values, (uniform) => uniform);
}

/** The same, each standard normal: the quantile of the uniform number in float64, rounded to float32. */
export function fillNormal(key: StreamKey, first: number, values: Float32Array): void {
  fill(key, first, values, normalQuantile);
}

function fill(key: StreamKey, first: number, values: Float32Array, of: (uniform: number) => number): void {
  const words = new Uint32Array(LANES);
  for (let done = 0; done < values.length; done++) {
    const lane = (first + done) % LANES;
    if (done === 0 || lane === 0) fillBlock(key, Math.floor((first + done) / LANES), FILL_PLANE, words);
    values[done] = of(((words[lane] ?? 0) + 0.5) / TWO_32);
  }
}

/**
 * The standard normal distribution's quantile of p in (0, 1), within about one part in 10^7.
 * Source: Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND7.
 */
function normalQuantile(p: number): number {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    const numerator = ((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179;
    return (q * numerator) / (((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1);
  }
  const tail = Math.sqrt(-logarithm(q < 0 ? p : 1 - p));
  const size = tail <= 5 ? middleTail(tail - 1.6) : farTail(tail - 5);
  return q < 0 ? -size : size;
}

function middleTail(r: number): number {
  const numerator = ((0.17023821103 * r + 1.3067284816) * r + 2.75681539) * r + 1.4234372777;
  return numerator / ((0.12021132975 * r + 0.7370016425) * r + 1);
}

function farTail(r: number): number {
  const numerator = ((0.017337203997 * r + 0.42868294337) * r + 3.081226386) * r + 6.657905115;
  return numerator / ((0.012258202635 * r + 0.24197894225) * r + 1);
}

function fillBlock(key: StreamKey, block: number, plane: number, words: Uint32Array): void {
  philox4x32([block % TWO_32, Math.floor(block / TWO_32), plane, 0], key, words);
}

/** High 32 bits of the 64-bit product of two unsigned words, by 16-bit halves: every partial sum is below 2^53. */
function multiplyHigh(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(cross / 65536);
}
