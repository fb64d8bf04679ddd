// One input of one tensor: turns spans of elements into ranged reads of its source, straight into kernel memory, one
// window ahead of the arithmetic.
import type { ByteRange } from "../core/checkpoint.ts";
import type { Block } from "../core/ops/kernels.ts";
import type { UnitInput } from "../core/plan/schema.ts";
import { DTYPE_BITS, elementBytes } from "../core/tensor.ts";
import type { ObjectStore } from "../stores/store.ts";
import type { ResolvedSource } from "./request.ts";

/** Reads `count` elements of the (possibly cut) tensor, from flat element `first`, to the start of `target`. */
export type ReadElements = (first: number, count: number, target: Block) => Promise<void>;

/** A contiguous span of a tensor's stored bytes and where it goes. */
type Span = { readonly offset: number; readonly bytes: number; readonly targetOffset: number };

/** Ranged reads of one input. Throws what the store throws; a short read is an error there, never zeros. */
export function createInputReader(
  input: UnitInput,
  source: ResolvedSource,
  store: ObjectStore,
  signal: AbortSignal,
): ReadElements {
  const unit = DTYPE_BITS[input.dtype] / 8;
  return async (first, count, target) => {
    const reads: Promise<void>[] = [];
    for (const span of spansOf(input, first, count, unit)) {
      for (const piece of piecesOf(input.ranges, span)) {
        const into = target.bytes.subarray(piece.targetOffset, piece.targetOffset + piece.bytes);
        reads.push(store.readInto(`${source.prefix}${piece.file}`, piece.offset, into, { signal }));
      }
    }
    await Promise.all(reads);
  };
}

/** Bytes of the stored tensor that hold elements [first, first + count) of the cut one: one span, or one per row. */
function* spansOf(input: UnitInput, first: number, count: number, unit: number): Generator<Span> {
  const storedColumns = input.shape.at(-1) ?? 1;
  if (input.cut === undefined || input.cut.columns === storedColumns) {
    yield { offset: first * unit, bytes: elementBytes(input.dtype, count), targetOffset: 0 };
    return;
  }
  const { columns } = input.cut;
  for (let done = 0; done < count; ) {
    const row = Math.floor((first + done) / columns);
    const column = (first + done) % columns;
    const length = Math.min(columns - column, count - done);
    yield { offset: (row * storedColumns + column) * unit, bytes: length * unit, targetOffset: done * unit };
    done += length;
  }
}

/** A span of the tensor's bytes as pieces of its files: the tensor is the concatenation of its ranges. */
function* piecesOf(ranges: readonly ByteRange[], span: Span): Generator<ByteRange & { targetOffset: number }> {
  let rangeStart = 0;
  for (const range of ranges) {
    const from = Math.max(span.offset, rangeStart);
    const to = Math.min(span.offset + span.bytes, rangeStart + range.bytes);
    if (from < to) {
      const targetOffset = span.targetOffset + from - span.offset;
      yield { file: range.file, offset: range.offset + from - rangeStart, bytes: to - from, targetOffset };
    }
    rangeStart += range.bytes;
  }
}
