// A whole tensor of a source, as it is stored: any span of its elements by ranged reads.
import assert from "node:assert/strict";
import type { ByteRange, TensorEntry } from "../core/checkpoint.ts";
import type { Block, Kernels } from "../core/ops/kernels.ts";
import type { TensorPlace } from "../core/plan/schema.ts";
import { type Dtype, elementBytes } from "../core/tensor.ts";
import { sliceRanges } from "../core/universal/box.ts";
import type { FolderPlace, OpenStore } from "../stores/store.ts";
import { createPackedReader, type ReadBytes, type Unpack } from "./packed-reader.ts";
import type { ResolvedSource } from "./request.ts";

/** Reads elements [first, first + count) to the start of `target`. */
export type ReadElements = (first: number, count: number, target: Block) => Promise<void>;

/** A tensor's elements in its dtype. */
export type StoredReader = { readonly dtype: Dtype; readonly read: ReadElements };

/** What readers need of their surroundings. */
export type ReaderDeps = {
  /** By the plan's source index. */
  readonly sources: readonly ResolvedSource[];
  readonly openStore: OpenStore;
  readonly signal: AbortSignal;
  /** A local store reads within the call. */
  readonly mayBlock?: boolean | undefined;
  /** Readers that compute take memory of it for good, as the plan counts it: whoever makes them marks and releases. */
  readonly kernels: Kernels;
};

/** Throws what the store throws; a short read is an error there, never zeros. */
export function createStoredReader(tensor: TensorPlace, deps: ReaderDeps): StoredReader {
  const { dtype, packing } = tensor;
  const unit = elementBytes(dtype, 1);
  const stored = createByteReader(tensor, deps);
  if (packing === undefined) {
    return { dtype, read: (first, count, target) => stored(first * unit, target.bytes.subarray(0, count * unit)) };
  }
  const { kernels } = deps;
  const allocate = (bytes: number): Uint8Array => kernels.allocateBlock(bytes).bytes;
  const read = createPackedReader(tensor, packing, stored, allocate, unpackWith(kernels));
  return { dtype, read: (first, count, target) => read(first, count, target.bytes) };
}

/** What readers allocate and read into lies in the kernels' memory, where addresses are offsets of views. */
function unpackWith(kernels: Kernels): Unpack {
  return {
    blocks(scheme, stored, values) {
      assert.ok(values.buffer === stored.buffer, "values are read into the kernels' memory");
      const target = { address: values.byteOffset, values };
      kernels.dequantizeRow(scheme, { address: stored.byteOffset, bytes: stored }, 0, target, values.length);
    },
    parts: (scheme, window) => kernels.dequantizeParts(scheme, window),
  };
}

/** Bytes of the tensor, as they are stored. */
function createByteReader(tensor: TensorPlace, { sources, openStore, signal, mayBlock }: ReaderDeps): ReadBytes {
  const source = sourceOf(tensor, sources);
  const store = openStore(source.store);
  return async (offset, target) => {
    const reads: Promise<void>[] = [];
    for (const { piece, into } of piecesOf(tensor.ranges, offset, target)) {
      reads.push(store.readInto(`${source.prefix}${piece.file}`, piece.offset, into, { signal, mayBlock }));
    }
    await Promise.all(reads);
  };
}

/**
 * Elements of a checkpoint's tensor, packed or not, for whoever reads without a plan: `target` is aligned to 4 bytes.
 * Memory: what core/plan/memory.ts counts for packed values, outside of any kernels.
 */
export function createEntryReader(
  entry: TensorEntry,
  { store, prefix }: FolderPlace,
  signal: AbortSignal,
): (first: number, count: number, target: Uint8Array) => Promise<void> {
  const unit = elementBytes(entry.dtype, 1);
  const stored: ReadBytes = async (offset, target) => {
    for (const { piece, into } of piecesOf(entry.ranges, offset, target)) {
      await store.readInto(`${prefix}${piece.file}`, piece.offset, into, { signal });
    }
  };
  if (entry.packing !== undefined)
    return createPackedReader(entry, entry.packing, stored, (bytes) => new Uint8Array(bytes));
  return (first, count, target) => stored(first * unit, target.subarray(0, count * unit));
}

/** Where a tensor's source lies. */
export function sourceOf({ source: index }: Pick<TensorPlace, "source">, sources: readonly ResolvedSource[]) {
  const source = sources[index];
  assert.ok(source !== undefined, `the plan has no source ${index}`);
  return source;
}

/** Bytes [offset, offset + bytes) of a block, in the same memory. */
export function subBlock(block: Block, offset: number, bytes: number): Block {
  return { address: block.address + offset, bytes: block.bytes.subarray(offset, offset + bytes) };
}

/** A span of a tensor's bytes as pieces of its files, and where in the target each goes. */
function piecesOf(ranges: readonly ByteRange[], offset: number, target: Uint8Array) {
  let end = 0;
  return sliceRanges(ranges, offset, target.length).map((piece) => {
    const start = end;
    end += piece.bytes;
    return { piece, into: target.subarray(start, end) };
  });
}
