// Memory of a kernel set: one fixed region, handed out from its start and taken back by marks, so that every address
// and view stays valid for the kernel set's life. Used by the scalar and the WebAssembly kernels alike.
import { MergeyardError } from "../error.ts";

/** Raw bytes in a kernel set's memory. `address` is meaningless outside the kernel set. */
export type Block = { readonly address: number; readonly bytes: Uint8Array };

/** float32 values in a kernel set's memory. */
export type Tile = { readonly address: number; readonly values: Float32Array };

/** `count` elements of a tile from `start`, without copying. */
export function subTile({ address, values }: Tile, start: number, count: number): Tile {
  return { address: address + 4 * start, values: values.subarray(start, start + count) };
}

/** Float64 numbers of a block in kernel memory. */
export function doublesOf({ bytes }: Block): Float64Array {
  return new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 3);
}

/** Every allocation starts on a cache line; also the widest vector and element alignment there is. */
const ALIGNMENT_BYTES = 64;

/** Bytes that an allocation of `bytes` takes. */
export function allocatedBytes(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}

export type Memory = {
  /** Allocations live until `release(mark)`; they throw KernelMemoryExhausted beyond the capacity. Not zeroed. */
  allocateBlock(bytes: number): Block;
  allocateTile(elements: number): Tile;
  mark(): number;
  release(mark: number): void;
};

/** Hands out `buffer` from `firstAddress` on. */
export function createMemory(buffer: ArrayBufferLike, firstAddress: number): Memory {
  let next = firstAddress;
  const reserve = (bytes: number): number => {
    const address = allocatedBytes(next);
    if (address + bytes > buffer.byteLength) {
      throw new MergeyardError("KernelMemoryExhausted", {
        found: `${bytes} bytes asked for, ${buffer.byteLength - address} left`,
        expected: "allocations within the capacity that the plan computed",
      });
    }
    next = address + bytes;
    return address;
  };
  return {
    allocateBlock(bytes) {
      const address = reserve(bytes);
      return { address, bytes: new Uint8Array(buffer, address, bytes) };
    },
    allocateTile(elements) {
      const address = reserve(4 * elements);
      return { address, values: new Float32Array(buffer, address, elements) };
    },
    mark: () => next,
    release(mark) {
      next = mark;
    },
  };
}
