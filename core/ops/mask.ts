// Random masks: element e of a stream is kept when its random number is below its probability. Numbers are those of
// core/random.ts, so a mask depends on the stream's key and the element's index alone.
import { type StreamKey, UNIFORM_STEPS, uniformAt } from "../random.ts";
import { clearRest, setBit } from "./deltas.ts";
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
};

/** A probability below 1 in steps of random numbers: u < p exactly when u is below this many steps. */
export function thresholdOf(probability: number): { high: number; low: number } {
  const steps = Math.min(UNIFORM_STEPS - 1, Math.max(0, Math.ceil(probability * UNIFORM_STEPS)));
  return { high: Math.floor(steps / 2 ** 32), low: steps % 2 ** 32 };
}

export const scalarMask: Mask = Object.freeze({
  drawMask(key, firstElement, probability, bits, bitOffset, count) {
    const { high, low } = thresholdOf(probability);
    const limit = (high * 2 ** 32 + low) / UNIFORM_STEPS;
    for (let i = 0; i < count; i++) setBit(bits, bitOffset + i, uniformAt(key, firstElement + i) < limit);
    clearRest(bits, bitOffset, count);
  },
} satisfies Mask);
