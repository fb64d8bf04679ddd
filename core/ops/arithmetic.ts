// Element-wise float32 arithmetic: the meaning of each operation, in plain TypeScript.
// For all: elements 0..count-1, each operation rounded once to nearest even, no fused multiply-add; scalar arguments
// are rounded to float32 first; a target may be the same tile as a source, and must not overlap it otherwise.
import type { Tile } from "./memory.ts";

export type Arithmetic = {
  /** target[i] = value. */
  fill(target: Tile, value: number, count: number): void;
  /** target[i] = a[i]. */
  copy(target: Tile, a: Tile, count: number): void;
  /** target[i] = a[i] + b[i]. */
  add(target: Tile, a: Tile, b: Tile, count: number): void;
  /** target[i] = a[i] - b[i]. */
  subtract(target: Tile, a: Tile, b: Tile, count: number): void;
  /** target[i] = a[i] * factor. */
  scale(target: Tile, a: Tile, factor: number, count: number): void;
  /** target[i] = a[i] / divisor. */
  divide(target: Tile, a: Tile, divisor: number, count: number): void;
  /** target[i] = target[i] + a[i] * factor: product and sum round separately. */
  addScaled(target: Tile, a: Tile, factor: number, count: number): void;
  /** target[i] = target[i] + (a[i] - b[i]) * factor: three roundings. */
  addScaledDifference(target: Tile, a: Tile, b: Tile, factor: number, count: number): void;
};

/** target[i] = compute(i) for every element; the assignment to a Float32Array is the rounding. */
function each(target: Tile, count: number, compute: (index: number) => number): void {
  for (let index = 0; index < count; index++) target.values[index] = compute(index);
}

const { fround } = Math;

/** Element of a tile; the caller's index is below the tile's length. */
function at(tile: Tile, index: number): number {
  return tile.values[index] ?? 0;
}

export const scalarArithmetic: Arithmetic = Object.freeze({
  fill: (target, value, count) => void target.values.fill(value, 0, count),
  copy: (target, a, count) => each(target, count, (i) => at(a, i)),
  add: (target, a, b, count) => each(target, count, (i) => at(a, i) + at(b, i)),
  subtract: (target, a, b, count) => each(target, count, (i) => at(a, i) - at(b, i)),
  scale: (target, a, factor, count) => each(target, count, (i) => at(a, i) * fround(factor)),
  divide: (target, a, divisor, count) => each(target, count, (i) => at(a, i) / fround(divisor)),
  addScaled: (target, a, factor, count) =>
    each(target, count, (i) => at(target, i) + fround(at(a, i) * fround(factor))),
  addScaledDifference: (target, a, b, factor, count) =>
    each(target, count, (i) => at(target, i) + fround(fround(at(a, i) - at(b, i)) * fround(factor))),
} satisfies Arithmetic);
