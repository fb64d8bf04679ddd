// One input of one tensor: turns spans of its elements into ranged reads of its source, straight into kernel memory,
// one window ahead of the arithmetic. Inputs whose rows are put in another order are engine/row-reader.ts's.
import assert from "node:assert/strict";
import type { ByteRange } from "../core/checkpoint.ts";
import type { Block, Kernels } from "../core/ops/kernels.ts";
import type { StoredTensor, UnitInput } from "../core/plan/schema.ts";
import { DTYPE_BITS, type Dtype } from "../core/tensor.ts";
import type { OpenStore } from "../stores/store.ts";
import type { ResolvedSource } from "./request.ts";
import { createRowReader } from "./row-reader.ts";

/** Reads `count` elements of what takes part of an input, from flat element `first`, to the start of `target`. */
export type ReadElements = (first: number, count: number, target: Block) => Promise<void>;

/** A whole tensor as it is stored: reads elements [first, first + count) in its dtype to the start of `target`. */
export type StoredReader = {
  readonly dtype: Dtype;
  read(first: number, count: number, target: Uint8Array): Promise<void>;
};

/** What readers need of their surroundings. */
export type ReaderDeps = {
  /** By the plan's source index. */
  readonly sources: readonly ResolvedSource[];
  readonly openStore: OpenStore;
  readonly signal: AbortSignal;
  /** Readers that compute take `readerBytes` of its memory for good: whoever makes them marks and releases it. */
  readonly kernels: Kernels;
};

/** Ranged reads of one input. Throws what the store throws; a short read is an error there, never zeros. */
export function createInputReader(input: UnitInput, deps: ReaderDeps): ReadElements {
  const own = createStoredReader(input, deps);
  const { rows, cut, shape } = input;
  const storedColumns = shape.slice(1).reduce((product, length) => product * length, 1);
  if (rows !== undefined) {
    const tensors = [own, ...rows.others.map((other) => createStoredReader(other, deps))];
    return createRowReader(rows, storedColumns, tensors, deps.kernels);
  }
  if (cut === undefined || cut.columns === storedColumns) {
    return (first, count, target) => own.read(first, count, target.bytes);
  }
  return createCutReader(own, cut.columns, storedColumns);
}

function createStoredReader(tensor: StoredTensor, { sources, openStore, signal }: ReaderDeps): StoredReader {
  const source = sources[tensor.source];
  assert.ok(source !== undefined, `the plan has no source ${tensor.source}`);
  const store = openStore(source.store);
  const unit = DTYPE_BITS[tensor.dtype] / 8;
  return {
    dtype: tensor.dtype,
    async read(first, count, target) {
      const reads: Promise<void>[] = [];
      for (const piece of piecesOf(tensor.ranges, first * unit, count * unit)) {
        const into = target.subarray(piece.targetOffset, piece.targetOffset + piece.bytes);
        reads.push(store.readInto(`${source.prefix}${piece.file}`, piece.offset, into, { signal }));
      }
      await Promise.all(reads);
    },
  };
}

/** The leftmost columns of a matrix: one read a row. */
function createCutReader(matrix: StoredReader, columns: number, storedColumns: number): ReadElements {
  const unit = DTYPE_BITS[matrix.dtype] / 8;
  return async (first, count, target) => {
    const reads: Promise<void>[] = [];
    for (let done = 0; done < count; ) {
      const row = Math.floor((first + done) / columns);
      const column = (first + done) % columns;
      const length = Math.min(columns - column, count - done);
      reads.push(matrix.read(row * storedColumns + column, length, target.bytes.subarray(done * unit)));
      done += length;
    }
    await Promise.all(reads);
  };
}

/** A span of the tensor's bytes as pieces of its files: the tensor is the concatenation of its ranges. */
function* piecesOf(
  ranges: readonly ByteRange[],
  offset: number,
  bytes: number,
): Generator<ByteRange & { targetOffset: number }> {
  let rangeStart = 0;
  for (const range of ranges) {
    const from = Math.max(offset, rangeStart);
    const to = Math.min(offset + bytes, rangeStart + range.bytes);
    if (from < to) {
      yield {
        file: range.file,
        offset: range.offset + from - rangeStart,
        bytes: to - from,
        targetOffset: from - offset,
      };
    }
    rangeStart += range.bytes;
  }
  assert.ok(offset + bytes <= rangeStart, "the plan reads beyond a tensor's end");
}
