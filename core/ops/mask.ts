// Random masks: element e of a stream is kept when its random number is below its probability. Numbers are those of
// core/random.ts, so a mask depends on the stream's key and the element's index alone.
import { type StreamKey, UNIFORM_STEPS, uniformAt } from "../random.ts";
import { clearRest, setBit, wordsOf } from "./deltas.ts";
import type { Block } from "./memory.ts";

export type Mask = {
  /**
   * Bit bitOffset + i = uniformAt(key, firstElement + i) < probability; zeros up to a whole group of bits.
   * `firstElement` is a multiple of BIT_GROUP; the probability is below 1.
   */
  drawMask(
    key: StreamKey,
    firstElement: number,
    probability: number,
    bits: Block,
    bitOffset: number,
    count: number,
  ): void;
  /** The same with the probability of rank `ranks[i]` (32-bit words) in a table of `writeThresholds`. */
  drawRankedMask(
    key: StreamKey,
    firstElement: number,
    thresholds: Thresholds,
    ranks: Block,
    bits: Block,
    bitOffset: number,
    count: number,
  ): void;
};

/** Probabilities by rank, as kernels compare them: the upper 8 and the lower 32 of 40 bits. */
export type Thresholds = { readonly highs: Block; readonly lows: Block };

/** A probability below 1 in steps of random numbers: u < p exactly when u is below this many steps. */
export function thresholdOf(probability: number): { high: number; low: number } {
  const steps = Math.min(UNIFORM_STEPS - 1, Math.max(0, Math.ceil(probability * UNIFORM_STEPS)));
  return { high: Math.floor(steps / 2 ** 32), low: steps % 2 ** 32 };
}

/** Fills a table: entry r is the threshold of `probabilityOf(r)`. */
export function writeThresholds(
  { highs, lows }: Thresholds,
  count: number,
  probabilityOf: (rank: number) => number,
): void {
  const words = wordsOf(lows);
  for (let rank = 0; rank < count; rank++) {
    const { high, low } = thresholdOf(probabilityOf(rank));
    highs.bytes[rank] = high;
    words[rank] = low;
  }
}

export const scalarMask: Mask = Object.freeze({
  drawMask(key, firstElement, probability, bits, bitOffset, count) {
    const { high, low } = thresholdOf(probability);
    const limit = (high * 2 ** 32 + low) / UNIFORM_STEPS;
    for (let i = 0; i < count; i++) setBit(bits, bitOffset + i, uniformAt(key, firstElement + i) < limit);
    clearRest(bits, bitOffset, count);
  },
  drawRankedMask(key, firstElement, { highs, lows }, ranks, bits, bitOffset, count) {
    const [rankOf, lowOf] = [wordsOf(ranks), wordsOf(lows)];
    for (let i = 0; i < count; i++) {
      const rank = rankOf[i] ?? 0;
      const limit = ((highs.bytes[rank] ?? 0) * 2 ** 32 + (lowOf[rank] ?? 0)) / UNIFORM_STEPS;
      setBit(bits, bitOffset + i, uniformAt(key, firstElement + i) < limit);
    }
    clearRest(bits, bitOffset, count);
  },
} satisfies Mask);
