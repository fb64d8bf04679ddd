// Differences to the base as the reference has them in 16 bits, for methods beside the task-vector family: rounded to
// the dtype that the model's and the base's promote to. Only `mergekit_compat: strict` asks for it; it is element by
// element and slow. Source: merge reference, section 2.1.
import { roundingTo } from "../../ops/cast.ts";
import type { Kernels, Tile } from "../../ops/kernels.ts";
import type { Locality, MergeTensor, ScratchTensor, TileView } from "../method.ts";
import type { Round } from "../sparsify/rescale.ts";
import { splitBase, splitTiles } from "./base-tiles.ts";
import { tileElementsMax, tilesBytes } from "./tiles.ts";

/** True where the reference computes some step in 16 bits. */
export function hasWorkingSteps({ inputs }: Pick<ScratchTensor, "inputs">): boolean {
  return inputs.some(({ working }) => working !== undefined);
}

/** To the dtype that all inputs promote to. */
export function commonRound({ working }: Pick<MergeTensor, "working">): Round {
  return working === undefined ? Math.fround : roundingTo(working);
}

/** Kernel memory of `createWorkingDifferences` at element locality: a tile for every input. */
export function differencesBytes(tensor: ScratchTensor): number {
  return tilesBytes(tensor.inputs.length, "element", tensor);
}

/** The base added back to what was merged of an element, rounded; without a base that alone. */
export function addBase(merged: number, origin: Tile | undefined, i: number, round: Round): number {
  return origin === undefined ? merged : round((origin.values[i] ?? 0) + merged);
}

/**
 * From a tile's view to the same with rounded differences in the models' places and 0 in the base's; without a base as
 * it is.
 */
export function createWorkingDifferences(
  tensor: MergeTensor,
  kernels: Kernels,
  locality: Locality = "element",
): (view: TileView) => TileView {
  const split = splitBase(tensor);
  if (split.base < 0) return (view) => view;
  const held = tensor.inputs.map(({ working }) => working);
  const origin = held[split.base];
  const tiles = tensor.inputs.map(() => kernels.allocateTile(tileElementsMax(locality, tensor)));
  tiles[split.base]?.values.fill(0);
  const rounds = held.map((own) => (own === undefined || own !== origin ? Math.fround : roundingTo(own)));
  return (view) => {
    const { base, others } = splitTiles(view, split);
    split.others.forEach((index, position) => {
      const [target, source, round] = [tiles[index]?.values, others[position]?.values, rounds[index]];
      if (target === undefined || source === undefined || round === undefined) return;
      for (let i = 0; i < view.count; i++) target[i] = round((source[i] ?? 0) - (base.values[i] ?? 0));
    });
    return { ...view, inputs: tiles };
  };
}
