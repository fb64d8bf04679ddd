// The WebAssembly operations of methods that look at whole models: votes and competition. What they compute is defined
// in core/ops. Counts are rounded up to whole groups where elements do not meet: tiles start on 64-byte lines, so what
// is written past the end is padding of the same tile.
import type { Competition } from "../../core/ops/competition.ts";
import type { Votes } from "../../core/ops/votes.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type WholeModelExports = {
  readonly trim: (target: number, a: number, base: number, threshold: number, count: number) => void;
  readonly keepSign: (target: number, elected: number, zeroSign: number, count: number) => void;
  readonly addCounted: (sum: number, counts: number, a: number, count: number) => void;
  readonly keepLargest: (target: number, a: number, count: number) => void;
  readonly addSquares: (sum: number, a: number, divisor: number, count: number) => void;
  readonly keepLargestSquare: (best: number, winner: number, a: number, divisor: number, count: number) => void;
  readonly divideCounted: (target: number, counts: number, count: number) => void;
  readonly balanceSigns: (a: number, count: number) => number;
  readonly sumAbsolute: (a: number, count: number) => number;
  readonly countLocal: (
    ...args: [counts: number, a: number, base: number, sum: number, share: number, count: number]
  ) => void;
  readonly keepCounted: (target: number, counts: number, least: number, count: number) => void;
  readonly writePlaces: (
    ...args: [target: number, a: number, base: number, low: number, high: number, count: number]
  ) => void;
  readonly addTanh: (target: number, a: number, b: number, count: number) => void;
  readonly scaleExp: (target: number, a: number, factor: number, count: number) => void;
  readonly writePositive: (target: number, a: number, factor: number, count: number) => void;
  readonly findLargest: (a: number, count: number) => number;
  readonly addCompetitor: (
    ...args: [
      sum: number,
      weights: number,
      model: number,
      base: number,
      scores: number,
      least: number,
      most: number,
      low: number,
      high: number,
      factor: number,
      count: number,
    ]
  ) => void;
  readonly finishCompetition: (target: number, sum: number, weights: number, base: number, count: number) => void;
};

const GROUP_ELEMENTS = 4;

function whole(count: number): number {
  return Math.ceil(count / GROUP_ELEMENTS) * GROUP_ELEMENTS;
}

/** Votes and competition over an instance. */
export function hostWholeModel(wasm: WholeModelExports): Votes & Competition {
  return {
    trim: (target, a, base, threshold, count) =>
      wasm.trim(target.address, a.address, base.address, threshold, whole(count)),
    keepSign: (target, elected, zeroSign, count) =>
      wasm.keepSign(target.address, elected.address, zeroSign, whole(count)),
    addCounted: (sum, counts, a, count) => wasm.addCounted(sum.address, counts.address, a.address, whole(count)),
    keepLargest: (target, a, count) => wasm.keepLargest(target.address, a.address, whole(count)),
    addSquares: (sum, a, divisor, count) => wasm.addSquares(sum.address, a.address, divisor, whole(count)),
    keepLargestSquare: (best, winner, a, divisor, count) =>
      wasm.keepLargestSquare(best.address, winner.address, a.address, divisor, whole(count)),
    divideCounted: (target, counts, count) => wasm.divideCounted(target.address, counts.address, whole(count)),
    balanceSigns: (a, count) => wasm.balanceSigns(a.address, count),
    sumAbsolute: (a, count) => wasm.sumAbsolute(a.address, count),
    countLocal: (counts, a, base, sum, share, count) =>
      wasm.countLocal(counts.address, a.address, base.address, sum.address, share, whole(count)),
    keepCounted: (target, counts, least, count) =>
      wasm.keepCounted(target.address, counts.address, least, whole(count)),
    writePlaces: (target, a, base, { low, high }, count) =>
      wasm.writePlaces(target.address, a.address, base.address, low, high, whole(count)),
    addTanh: (target, a, b, count) => wasm.addTanh(target.address, a.address, b.address, whole(count)),
    scaleExp: (target, a, factor, count) => wasm.scaleExp(target.address, a.address, factor, whole(count)),
    writePositive: (target, a, factor, count) => wasm.writePositive(target.address, a.address, factor, whole(count)),
    findLargest: (a, count) => wasm.findLargest(a.address, count),
    addCompetitor(sum, weights, { model, base, scores, magnitudes, places, factor }, count) {
      const [m, b, s] = [model.address, base.address, scores.address];
      const [from, to] = [magnitudes, places];
      const n = whole(count);
      wasm.addCompetitor(sum.address, weights.address, m, b, s, from.low, from.high, to.low, to.high, factor, n);
    },
    finishCompetition: (target, sum, weights, base, count) =>
      wasm.finishCompetition(target.address, sum.address, weights.address, base.address, whole(count)),
  };
}
