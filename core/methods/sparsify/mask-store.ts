// The mask bits of a tensor's sparse models: those of one tile, made anew in every pass that needs them, or those of
// the whole tensor, made once and kept for the next pass where that fits into a bound on memory.
import assert from "node:assert/strict";
import { BIT_GROUP } from "../../ops/deltas.ts";
import type { Block, Kernels } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import { elementCount } from "../../tensor.ts";
import { type Locality, type ScratchTensor, tileElementsOf } from "../method.ts";
import type { DeltaTile, MarkTile } from "./sparsifier.ts";

/** Bits of all models of a tensor are kept between passes up to this; beyond it they are made again. */
const KEPT_BYTES_MAX = 32 * 2 ** 20;
/** Kernels read marks in words: a little may be read past the last group. */
const SLACK_BYTES = 8;

type Marks = { readonly bits: Block; readonly bitOffset: number };

export type MaskStore = {
  /** Makes the marks of a tile; every pass that marks does so for all tiles in order. */
  mark(tile: DeltaTile): void;
  /** Marks of a sparse model in the tile marked last; undefined: a model whose elements are all kept. */
  marksOf(source: number | undefined): Marks;
};

/** Bytes of a tile's bits, whole groups, and of each model's own bits. */
function sizesOf({ shape, inputs }: ScratchTensor, locality: Locality, keeps: boolean) {
  const total = Math.max(1, elementCount(shape));
  const tile = Math.min(tileElementsOf(locality, shape), total);
  const tileBytes = (BIT_GROUP / 8) * Math.ceil(tile / BIT_GROUP);
  const whole = tileBytes * Math.ceil(total / tile);
  const isKept = keeps && inputs.length * whole <= KEPT_BYTES_MAX;
  return { tileBytes: tileBytes + SLACK_BYTES, ownBytes: (isKept ? whole : tileBytes) + SLACK_BYTES, isKept };
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
  startMarking: () => MarkTile,
): MaskStore {
  const { tileBytes, ownBytes, isKept } = sizesOf(sparse, locality, keeps);
  const ones = kernels.allocateBlock(tileBytes);
  ones.bytes.fill(0xff);
  const blocks = sparse.inputs.map(() => kernels.allocateBlock(ownBytes));
  let marking: MarkTile | undefined;
  let [bitOffset, nextOffset, passes] = [0, 0, 0];
  return {
    mark(tile) {
      if (tile.firstElement === 0) {
        passes++;
        nextOffset = 0;
        marking = isKept && passes > 1 ? undefined : startMarking();
      }
      bitOffset = nextOffset;
      if (isKept) nextOffset += BIT_GROUP * Math.ceil(tile.count / BIT_GROUP);
      if (marking === undefined) return;
      for (const [source, bits] of blocks.entries()) marking(source, tile, bits, bitOffset);
    },
    marksOf(source) {
      if (source === undefined) return { bits: ones, bitOffset: 0 };
      const bits = blocks[source];
      assert.ok(bits !== undefined, "a sparse model");
      return { bits, bitOffset };
    },
  };
}
