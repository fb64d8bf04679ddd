// The mask bits of a tensor's sparse models, made when they are asked for: those of one tile, anew in every pass that
// needs them, or those of the whole tensor, once, and kept for the next pass where that fits into a bound on memory.
import assert from "node:assert/strict";
import { BIT_GROUP } from "../../ops/deltas.ts";
import type { Block, Kernels } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import { elementCount } from "../../tensor.ts";
import { tileElementsMax } from "../frames/tiles.ts";
import type { Locality, ScratchTensor } from "../method.ts";
import type { DeltaTile, MarkTile } from "./sparsifier.ts";

/** Bits of all models of a tensor are kept between passes up to this; beyond it they are made again. */
const KEPT_BYTES_MAX = 32 * 2 ** 20;
/** Kernels read marks in words: a little may be read past the last group. */
const SLACK_BYTES = 8;

/** Bytes of the marks of `count` elements, whole groups. */
export function marksBytes(count: number): number {
  return groupsBytes(count) + SLACK_BYTES;
}

function groupsBytes(count: number): number {
  return (BIT_GROUP / 8) * Math.ceil(count / BIT_GROUP);
}

type Marks = { readonly bits: Block; readonly bitOffset: number };

export type MaskStore = {
  /** There is room for the marks of a window, those of a tile right behind those of the one before. */
  readonly holdsWindows: boolean;
  /** Every pass enters tiles in order. */
  enter(tile: DeltaTile): void;
  /** Marks of a sparse model in the tile entered last; undefined: a model whose elements are all kept. */
  marksOf(source: number | undefined): Marks;
};

/** Bytes of a tile's bits, whole groups, and of each model's own bits. */
function sizesOf({ shape, inputs }: ScratchTensor, locality: Locality, keeps: boolean) {
  const tile = tileElementsMax(locality, { shape });
  const tileBytes = marksBytes(tile);
  const whole = groupsBytes(tile) * Math.ceil(Math.max(1, elementCount(shape)) / tile);
  const isKept = keeps && inputs.length * whole <= KEPT_BYTES_MAX;
  return { tile, tileBytes, ownBytes: isKept ? whole + SLACK_BYTES : tileBytes, isKept };
}

/** Kernel memory of a store: one tile of ones, and each sparse model's bits. */
export function maskStoreBytes(sparse: ScratchTensor, locality: Locality, keeps: boolean): number {
  const { tileBytes, ownBytes } = sizesOf(sparse, locality, keeps);
  return allocatedBytes(tileBytes) + sparse.inputs.length * allocatedBytes(ownBytes);
}

/** `keeps`: marks are needed in two passes, so that keeping them is worth memory. */
export function createMaskStore(
  kernels: Kernels,
  sparse: ScratchTensor,
  locality: Locality,
  keeps: boolean,
  mark: MarkTile,
): MaskStore {
  const { tile: tileElements, tileBytes, ownBytes, isKept } = sizesOf(sparse, locality, keeps);
  const ones = kernels.allocateBlock(tileBytes);
  ones.bytes.fill(0xff);
  const blocks = sparse.inputs.map(() => kernels.allocateBlock(ownBytes));
  /** By model: the elements up to here have marks. */
  const markedEnds = blocks.map(() => 0);
  let entered: DeltaTile | undefined;
  let bitOffset = 0;
  return {
    holdsWindows: isKept && tileElements % BIT_GROUP === 0,
    enter(tile) {
      entered = tile;
      if (isKept) bitOffset = BIT_GROUP * Math.ceil(tileElements / BIT_GROUP) * (tile.firstElement / tileElements);
      else markedEnds.fill(tile.firstElement);
    },
    marksOf(source) {
      if (source === undefined) return { bits: ones, bitOffset: 0 };
      const bits = blocks[source];
      assert.ok(bits !== undefined && entered !== undefined, "a sparse model in a tile");
      const { firstElement, count } = entered;
      if ((markedEnds[source] ?? 0) <= firstElement) {
        mark(source, entered, bits, bitOffset);
        markedEnds[source] = firstElement + count;
      }
      return { bits, bitOffset };
    },
  };
}
