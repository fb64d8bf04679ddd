// Which models' values count for an element, and what becomes of those that do, one model at a time: the meaning of
// the operations, in plain TypeScript. Sources: the paper code of TIES, EMR-Merging and TALL masks, merge reference
// section 8.
import type { Tile } from "./memory.ts";

export type Votes = {
  /** target[i] = D (|D| >= threshold ? 1 : 0), D = fl(a[i] - base[i]). NaN stays NaN. */
  trim(target: Tile, a: Tile, base: Tile, threshold: number, count: number): void;
  /**
   * target[i] = target[i] times 1 where its sign is that of elected[i], else times 0. An elected 0 (or NaN) has the
   * sign of `zeroSign`; when that is 0 too, nothing agrees with it.
   */
  keepSign(target: Tile, elected: Tile, zeroSign: number, count: number): void;
  /** sum[i] += a[i]; counts[i] += 1 where a[i] is not 0. */
  addCounted(sum: Tile, counts: Tile, a: Tile, count: number): void;
  /** target[i] = a[i] where |a[i]| > |target[i]|. */
  keepLargest(target: Tile, a: Tile, count: number): void;
  /** sum[i] += sign(a[i]) fl(fl(a[i] a[i]) / divisor). */
  addSquares(sum: Tile, a: Tile, divisor: number, count: number): void;
  /** Where fl(fl(a[i] a[i]) / divisor) > best[i]: that becomes best[i], and a[i] winner[i]. */
  keepLargestSquare(best: Tile, winner: Tile, a: Tile, divisor: number, count: number): void;
  /** target[i] = target[i] / max(counts[i], 1). */
  divideCounted(target: Tile, counts: Tile, count: number): void;
  /** Positive values less negative ones. */
  balanceSigns(a: Tile, count: number): number;
  /** Sum of |a[i]| in float64: element i in partial sum i mod 4, these added 0 to 3. */
  sumAbsolute(a: Tile, count: number): number;
  /** counts[i] += 1 where |fl(base[i] - a[i])| > fl(share |fl(fl(base[i] + sum[i]) - a[i])|). */
  countLocal(counts: Tile, a: Tile, base: Tile, sum: Tile, share: number, count: number): void;
  /** target[i] = target[i] times 1 where counts[i] >= least, else times 0. */
  keepCounted(target: Tile, counts: Tile, least: number, count: number): void;
};

const { fround } = Math;

/** Element of a tile; the caller's index is below the tile's length. */
function at({ values }: Tile, index: number): number {
  return values[index] ?? 0;
}

function square(a: Tile, index: number, divisor: number): number {
  return fround(fround(at(a, index) * at(a, index)) / fround(divisor));
}

export const scalarVotes: Votes = Object.freeze({
  trim(target, a, base, threshold, count) {
    for (let i = 0; i < count; i++) {
      const delta = fround(at(a, i) - at(base, i));
      target.values[i] = delta * (Math.abs(delta) >= fround(threshold) ? 1 : 0);
    }
  },
  keepSign(target, elected, zeroSign, count) {
    for (let i = 0; i < count; i++) {
      const sign = Math.sign(at(elected, i)) || zeroSign;
      const value = at(target, i);
      target.values[i] = value * ((sign > 0 && value > 0) || (sign < 0 && value < 0) ? 1 : 0);
    }
  },
  addCounted(sum, counts, a, count) {
    for (let i = 0; i < count; i++) {
      sum.values[i] = at(sum, i) + at(a, i);
      counts.values[i] = at(counts, i) + (at(a, i) === 0 ? 0 : 1);
    }
  },
  keepLargest(target, a, count) {
    for (let i = 0; i < count; i++) {
      if (Math.abs(at(a, i)) > Math.abs(at(target, i))) target.values[i] = at(a, i);
    }
  },
  addSquares(sum, a, divisor, count) {
    for (let i = 0; i < count; i++) {
      const own = square(a, i, divisor);
      sum.values[i] = at(sum, i) + (at(a, i) < 0 ? -own : own);
    }
  },
  keepLargestSquare(best, winner, a, divisor, count) {
    for (let i = 0; i < count; i++) {
      const own = square(a, i, divisor);
      if (!(own > at(best, i))) continue;
      best.values[i] = own;
      winner.values[i] = at(a, i);
    }
  },
  divideCounted(target, counts, count) {
    for (let i = 0; i < count; i++) target.values[i] = at(target, i) / Math.max(at(counts, i), 1);
  },
  balanceSigns(a, count) {
    let balance = 0;
    for (let i = 0; i < count; i++) balance += at(a, i) > 0 ? 1 : at(a, i) < 0 ? -1 : 0;
    return balance;
  },
  sumAbsolute(a, count) {
    const sums = [0, 0, 0, 0];
    for (let i = 0; i < count; i++) sums[i & 3] = (sums[i & 3] ?? 0) + Math.abs(at(a, i));
    return sums.reduce((sum, own) => sum + own, 0);
  },
  countLocal(counts, a, base, sum, share, count) {
    for (let i = 0; i < count; i++) {
      const own = Math.abs(fround(at(base, i) - at(a, i)));
      const other = Math.abs(fround(fround(at(base, i) + at(sum, i)) - at(a, i)));
      counts.values[i] = at(counts, i) + (own > fround(fround(share) * other) ? 1 : 0);
    }
  },
  keepCounted(target, counts, least, count) {
    for (let i = 0; i < count; i++) target.values[i] = at(target, i) * (at(counts, i) >= fround(least) ? 1 : 0);
  },
} satisfies Votes);
