// Counter-based random numbers: Philox 4x32-10. The value of an element depends on (seed, names, element index) alone,
// so a mask is the same for any thread count, window or shard size, and any part of it can be made again.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.3; constants
// and known answers from the Random123 distribution.
import { digestJson } from "./artifact/digest.ts";

const ROUNDS = 10;
/** Multipliers and key increments of Philox 4x32 (golden ratio and sqrt(3)-1); another value is another generator. */
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

const TWO_32 = 2 ** 32;
/** Values are multiples of 2^-24: exact in float32, never rounded up to 1. */
const UNIFORM_STEP = 2 ** -24;
/** Random words per counter. */
const LANES = 4;

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
 * Value of element `index` of a stream: uniform on [0, 1) in steps of 2^-24 (the top 24 bits of the word).
 * The word is lane `index mod 4` of the block whose counter is (low, high word of `floor(index / 4)`, 0, 0).
 */
export function uniformAt(key: StreamKey, index: number): number {
  const words = new Uint32Array(LANES);
  fillBlock(key, Math.floor(index / LANES), new Uint32Array(LANES), words);
  return ((words[index % LANES] ?? 0) >>> 8) * UNIFORM_STEP;
}

/** out[i] = uniformAt(key, firstIndex + i): any cut of a stream into pieces gives the same values. */
export function fillUniform(key: StreamKey, firstIndex: number, out: Float32Array): void {
  const counter = new Uint32Array(LANES);
  const words = new Uint32Array(LANES);
  let block = -1;
  for (let i = 0; i < out.length; i += 1) {
    const index = firstIndex + i;
    const wanted = Math.floor(index / LANES);
    if (wanted !== block) {
      fillBlock(key, wanted, counter, words);
      block = wanted;
    }
    out[i] = ((words[index % LANES] ?? 0) >>> 8) * UNIFORM_STEP;
  }
}

function fillBlock(key: StreamKey, block: number, counter: Uint32Array, words: Uint32Array): void {
  counter[0] = block % TWO_32;
  counter[1] = Math.floor(block / TWO_32);
  philox4x32(counter, key, words);
}

/** High 32 bits of the 64-bit product of two unsigned words, by 16-bit halves: every partial sum is below 2^53. */
function multiplyHigh(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(cross / 65536);
}
