// The base among a tensor's inputs and the models beside it, for methods that treat the two differently.
import assert from "node:assert/strict";
import type { Tile } from "../../ops/kernels.ts";
import type { MergeTensor, TileView } from "../method.ts";

/** Indexes among the inputs: of the base, -1 where there is none, and of the others in order. */
export type BaseSplit = { readonly base: number; readonly others: readonly number[] };

/** The base and the others. Where a method needs a base the planner has seen to it. */
export function splitBase({ inputs }: Pick<MergeTensor, "inputs">): BaseSplit {
  const base = inputs.findIndex(({ isBase }) => isBase);
  return { base, others: inputs.map((_, index) => index).filter((index) => index !== base) };
}

/** Tiles of the base and of the others. */
export function splitTiles(
  { inputs }: TileView,
  { base, others }: BaseSplit,
): { readonly base: Tile; readonly others: readonly Tile[] } {
  return { base: tileAt(inputs, base), others: others.map((index) => tileAt(inputs, index)) };
}

/** An input's tile. */
export function tileAt(inputs: readonly Tile[], index: number): Tile {
  const tile = inputs[index];
  assert.ok(tile !== undefined, "an input of the tensor");
  return tile;
}
