// Tiles as methods work with them: how large they are, what they take of kernel memory, and views of their values.
import type { Deltas } from "../../ops/deltas.ts";
import type { Block, Kernels, Tile } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import { elementCount } from "../../tensor.ts";
import { type Locality, type ScratchTensor, tileElementsOf } from "../method.ts";

/** Elements of the largest tile that a method of this locality is given of a tensor. */
export function tileElementsMax(locality: Locality, { shape }: Pick<ScratchTensor, "shape">): number {
  return Math.min(tileElementsOf(locality, shape), Math.max(1, elementCount(shape)));
}

/** Kernel memory of `count` such tiles. */
export function tilesBytes(count: number, locality: Locality, tensor: Pick<ScratchTensor, "shape">): number {
  return count * allocatedBytes(4 * tileElementsMax(locality, tensor));
}

/** The bytes of a tile, as kernels read stored values. */
export function blockOf({ address, values }: Tile): Block {
  return { address, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

/** How many elements of a tile are not 0; `zero` is overwritten. */
export function countNonzero(kernels: Kernels, tile: Tile, zero: Tile, count: number): number {
  kernels.fill(zero, 0, count);
  const values: Deltas = { dtype: "F32", base: blockOf(zero), source: blockOf(tile), byteOffset: 0 };
  return count - kernels.countEqual(values, 0, count);
}
