// The WebAssembly operations of methods that treat every element by what the models say of it: nearness, overlap,
// consensus, scores. What they compute is defined in core/ops; this turns tiles and blocks into addresses.
import type { Consensus } from "../../core/ops/consensus.ts";
import type { Nearness } from "../../core/ops/nearness.ts";
import type { Overlap } from "../../core/ops/overlap.ts";
import type { Scores } from "../../core/ops/scores.ts";
import { bitsIn } from "./host-values.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type ElementExports = {
  readonly swapNear: (target: number, a: number, base: number, t: number, count: number) => void;
  readonly countLarge: (
    ...args: [counts: number, a: number, base: number, epsilon: number, isFirst: number, count: number]
  ) => void;
  readonly tallyLarge: (counts: number, a: number, base: number, epsilon: number, count: number) => void;
  readonly largeTally: () => number;
  readonly addLarge: (
    ...args: [
      target: number,
      counts: number,
      a: number,
      base: number,
      epsilon: number,
      uniqueFactor: number,
      count: number,
    ]
  ) => void;
  readonly finishLarge: (target: number, counts: number, base: number, count: number) => void;
  readonly addMoments: (
    ...args: [means: number, squares: number, a: number, base: number, ordinal: number, count: number]
  ) => void;
  readonly writeVariance: (target: number, squares: number, models: number, count: number) => void;
  readonly addMarked: (target: number, a: number, base: number, bits: number, count: number) => void;
  readonly addElected: (
    ...args: [
      majority: number,
      sum: number,
      weights: number,
      a: number,
      base: number,
      bits: number,
      weight: number,
      count: number,
    ]
  ) => void;
  readonly finishElected: (target: number, sum: number, weights: number, base: number, count: number) => void;
  readonly writeScores: (
    ...args: [target: number, a: number, base: number, factors: number, length: number, skip: number, count: number]
  ) => void;
  readonly addScored: (
    ...args: [target: number, a: number, base: number, scores: number, threshold: number, count: number]
  ) => void;
};

/** Operations on elements over an instance and its memory. */
export function hostElements(wasm: ElementExports, buffer: ArrayBuffer): Nearness & Overlap & Consensus & Scores {
  return {
    swapNear: (target, a, base, t, count) => wasm.swapNear(target.address, a.address, base.address, t, count),
    ...hostOverlap(wasm, buffer),
    ...hostConsensus(wasm),
    ...hostScores(wasm),
  };
}

function hostOverlap(wasm: ElementExports, buffer: ArrayBuffer): Overlap {
  const tally = new Int32Array(buffer, wasm.largeTally(), 2);
  return {
    countLarge: (counts, a, base, epsilon, isFirst, count) =>
      wasm.countLarge(counts.address, a.address, base.address, epsilon, isFirst ? 1 : 0, count),
    tallyLarge(counts, a, base, epsilon, count) {
      wasm.tallyLarge(counts.address, a.address, base.address, epsilon, count);
      const [unique = 0, overlapping = 0] = tally;
      return { unique, overlapping };
    },
    addLarge: (target, counts, a, base, epsilon, uniqueFactor, count) =>
      wasm.addLarge(target.address, counts.address, a.address, base.address, epsilon, uniqueFactor, count),
    finishLarge: (target, counts, base, count) => wasm.finishLarge(target.address, counts.address, base.address, count),
  };
}

function hostConsensus(wasm: ElementExports): Consensus {
  return {
    addMoments: ({ means, squares }, a, base, ordinal, count) =>
      wasm.addMoments(means.address, squares.address, a.address, base.address, ordinal, count),
    writeVariance: (target, { squares }, models, count) =>
      wasm.writeVariance(target.address, squares.address, models, count),
    addMarked: (target, a, base, marks, count) =>
      wasm.addMarked(target.address, a.address, base.address, bitsIn(marks), count),
    addElected: ({ majority, sum, weights }, a, base, marks, weight, count) =>
      wasm.addElected(
        majority.address,
        sum.address,
        weights.address,
        a.address,
        base.address,
        bitsIn(marks),
        weight,
        count,
      ),
    finishElected: (target, { sum, weights }, base, count) =>
      wasm.finishElected(target.address, sum.address, weights.address, base.address, count),
  };
}

function hostScores(wasm: ElementExports): Scores {
  return {
    writeScores(target, a, base, { factors, length }, firstElement, count) {
      const row = factors.address + 4 * Math.floor(firstElement / length);
      wasm.writeScores(target.address, a.address, base.address, row, length, firstElement % length, count);
    },
    addScored: (target, a, base, scores, threshold, count) =>
      wasm.addScored(target.address, a.address, base.address, scores.address, threshold, count),
  };
}
