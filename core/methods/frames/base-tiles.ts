// The base among a tensor's inputs and the models beside it, for methods that treat the two differently.
import assert from "node:assert/strict";
import type { Deltas } from "../../ops/deltas.ts";
import type { Block, Kernels, Tile } from "../../ops/kernels.ts";
import { elementCount } from "../../tensor.ts";
import {
  type Locality,
  type MergeTensor,
  type ScratchTensor,
  type TensorProgram,
  type TileView,
  tileElementsOf,
} from "../method.ts";

/** Indexes among the inputs: of the base, and of the others in order. */
export type BaseSplit = { readonly base: number; readonly others: readonly number[] };

/** The base and the others. Where a method needs a base the planner has seen to it; else -1 says that there is none. */
export function splitBase({ inputs }: Pick<MergeTensor, "inputs">): BaseSplit {
  const base = inputs.findIndex(({ isBase }) => isBase);
  return { base, others: inputs.map((_, index) => index).filter((index) => index !== base) };
}

/** Tiles of the base and of the others. */
export function splitTiles(
  { inputs }: TileView,
  { base, others }: BaseSplit,
): { readonly base: Tile; readonly others: readonly Tile[] } {
  const tileAt = (index: number): Tile => {
    const tile = inputs[index];
    assert.ok(tile !== undefined, "an input of the tensor");
    return tile;
  };
  return { base: tileAt(base), others: others.map(tileAt) };
}

/** Elements of the largest tile that a method of this locality is given of a tensor. */
export function tileElementsMax(locality: Locality, { shape }: Pick<ScratchTensor, "shape">): number {
  return Math.min(tileElementsOf(locality, shape), Math.max(1, elementCount(shape)));
}

/** The program of a lone input: its values, perhaps to be rounded to another dtype. */
export function loneProgram(): TensorProgram {
  return { reduce: [], apply: { deltas: false, combination: () => ({ factors: [1], divisor: 1, multiplier: 1 }) } };
}

/** How many elements of a tile are not 0; `zero` is overwritten. */
export function countNonzero(kernels: Kernels, tile: Tile, zero: Tile, count: number): number {
  kernels.fill(zero, 0, count);
  const values: Deltas = { dtype: "F32", base: blockOf(zero), source: blockOf(tile), byteOffset: 0 };
  return count - kernels.countEqual(values, 0, count);
}

/** The bytes of a tile, as kernels read stored values. */
export function blockOf({ address, values }: Tile): Block {
  return { address, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}
