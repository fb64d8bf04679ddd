// Rows of a tile: methods that treat every row of the last axis as a vector of its own.
import type { Tile } from "../../ops/kernels.ts";
import type { Shape } from "../../tensor.ts";

/** Elements of a row; a tensor of one axis is one row. */
export function rowLength(shape: Shape): number {
  return Math.max(1, shape.at(-1) ?? 1);
}

/** `count` elements of a tile from `start`, without copying. */
export function subTile({ address, values }: Tile, start: number, count: number): Tile {
  return { address: address + 4 * start, values: values.subarray(start, start + count) };
}
