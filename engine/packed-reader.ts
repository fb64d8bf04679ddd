// Values that are stored packed: blocks of a quantization scheme come out as float32, rows that were interleaved in
// their order. Any span may be asked for; memory is one span, whatever the tensor's size. Called by stored-reader.ts
// for merges and by gather.ts for conversions.
import type { Packing, PartsPacking } from "../core/checkpoint.ts";
import { PACKED_SPAN_BYTES, partsMatrix, windowOfRows } from "../core/plan/memory.ts";
import { BLOCK_SCHEMES, type BlockSchemeId } from "../core/schemes/registry.ts";
import { type BlockScheme, partRange, type RowWindow, type StoredScheme } from "../core/schemes/scheme.ts";
import { type Dtype, elementBytes, elementCount, type Shape, tensorBytes } from "../core/tensor.ts";
import { oneAtATime } from "./one-at-a-time.ts";

/** Reads `target.length` bytes of a tensor, as it is stored, from byte `offset`. */
export type ReadBytes = (offset: number, target: Uint8Array) => Promise<void>;

/** Reads elements [first, first + count) to the start of `target`, whose elements have `unit` bytes. */
type ReadSpan = (first: number, count: number, target: Uint8Array) => Promise<void>;

/** How stored values become float32: with the kernels of a thread, or in plain TypeScript. */
export type Unpack = {
  /** Whole blocks of a scheme. */
  blocks(scheme: BlockSchemeId, stored: Uint8Array, values: Float32Array): void;
  /** Fills the window's values from its parts. */
  parts(scheme: StoredScheme, window: RowWindow): void;
};

const PLAIN: Unpack = {
  blocks: (scheme, stored, values) => BLOCK_SCHEMES[scheme].dequantize(stored, values),
  parts: (scheme, window) => scheme.dequantize(window),
};

/** What is packed: `dtype` and `shape` are those of the values. */
type PackedTensor = { readonly dtype: Dtype; readonly shape: Shape };

/** Reads values; `allocate` gives memory for good, as much as core/plan/memory.ts counts. */
export function createPackedReader(
  { dtype, shape }: PackedTensor,
  { scheme, interleavedHeads: heads, parts, shift = 0 }: Packing,
  stored: ReadBytes,
  allocate: (bytes: number) => Uint8Array,
  unpack: Unpack = PLAIN,
): ReadSpan {
  if (parts !== undefined) return oneAtATime(readParts(parts, shape, stored, allocate, unpack));
  const unit = elementBytes(dtype, 1);
  const span = () => allocate(PACKED_SPAN_BYTES);
  const values: ReadSpan =
    scheme === undefined
      ? (first, count, target) => stored(first * unit, target.subarray(0, count * unit))
      : readBlocks(scheme, stored, span(), unpack);
  if (shift !== 0) return oneAtATime(readShifted(values, shift));
  if (heads === undefined) return oneAtATime(values);
  const [rows = 1] = shape;
  return oneAtATime(readInterleaved(values, { heads, rows, columns: elementCount(shape.slice(1)), unit }, span()));
}

/** float32 values less `shift`, each difference rounded; `target` must be aligned to 4 bytes. */
function readShifted(read: ReadSpan, shift: number): ReadSpan {
  return async (first, count, target) => {
    await read(first, count, target);
    const values = new Float32Array(target.buffer, target.byteOffset, count);
    for (let i = 0; i < count; i++) values[i] = (values[i] ?? 0) - shift;
  };
}

/**
 * float32 values of rows of whole blocks. `span` holds stored bytes, at least one block; `target` must be aligned to 4
 * bytes.
 */
function readBlocks(id: BlockSchemeId, read: ReadBytes, span: Uint8Array, unpack: Unpack): ReadSpan {
  const scheme: BlockScheme = BLOCK_SCHEMES[id];
  const { blockElements, blockBytes } = scheme;
  const blocksAtOnce = Math.floor(span.length / blockBytes);
  const edge = new Float32Array(blockElements);
  return async (first, count, target) => {
    const values = new Float32Array(target.buffer, target.byteOffset, count);
    const end = first + count;
    for (let block = Math.floor(first / blockElements); block * blockElements < end; block += blocksAtOnce) {
      const blocks = Math.min(blocksAtOnce, Math.ceil(end / blockElements) - block);
      const stored = span.subarray(0, blocks * blockBytes);
      await read(block * blockBytes, stored);
      for (let done = 0; done < blocks; ) {
        const start = (block + done) * blockElements;
        const whole = start < first ? 0 : Math.min(blocks - done, Math.floor((end - start) / blockElements));
        const bytes = stored.subarray(done * blockBytes, (done + Math.max(1, whole)) * blockBytes);
        if (whole > 0) {
          unpack.blocks(id, bytes, values.subarray(start - first, start - first + whole * blockElements));
          done += whole;
          continue;
        }
        // A block that the span only has a part of.
        scheme.dequantize(bytes, edge);
        const from = Math.max(first, start);
        values.set(edge.subarray(from - start, Math.min(end - start, blockElements)), from - first);
        done += 1;
      }
    }
  };
}

/**
 * float32 values of a matrix that lies in parts, which follow each other in the scheme's order: whole rows at a time,
 * of every part the bytes that go with them.
 */
function readParts(
  packing: PartsPacking,
  shape: Shape,
  read: ReadBytes,
  allocate: (bytes: number) => Uint8Array,
  unpack: Unpack,
): ReadSpan {
  const { scheme, matrix, parts: all } = partsMatrix(packing, shape);
  const { rowsAtOnce } = windowOfRows(scheme, matrix);
  const { rows, columns } = matrix;
  let end = 0;
  const parts = all.map((part) => {
    const [start, most] = [end, partRange(part, 0, Math.min(rowsAtOnce, rows)).bytes];
    end += tensorBytes(part.dtype, part.shape);
    return { part, start, memory: allocate(most), isHere: false };
  });
  const memory = allocate(4 * rowsAtOnce * columns);
  const window = new Float32Array(memory.buffer, memory.byteOffset, rowsAtOnce * columns);
  return async (first, count, target) => {
    const values = new Float32Array(target.buffer, target.byteOffset, count);
    const begin = Math.floor(first / (rowsAtOnce * columns)) * rowsAtOnce;
    for (let row = begin; row * columns < first + count; row += rowsAtOnce) {
      const taken = Math.min(rowsAtOnce, rows - row);
      const bytes = parts.map(({ part, start, memory: own, isHere }) => {
        const range = partRange(part, row, taken);
        return { name: part.name, at: start + range.offset, into: own.subarray(0, range.bytes), isHere };
      });
      await Promise.all(bytes.filter(({ isHere }) => !isHere).map(({ at, into }) => read(at, into)));
      // What belongs to the tensor as a whole is read once.
      for (const own of parts) own.isHere = own.part.along === undefined;
      const own = window.subarray(0, taken * columns);
      const named = new Map(bytes.map(({ name, into }) => [name, into]));
      unpack.parts(scheme, { matrix, first: row, count: taken, values: own, parts: named });
      const [from, to] = [Math.max(first, row * columns), Math.min(first + count, (row + taken) * columns)];
      values.set(own.subarray(from - row * columns, to - row * columns), from - first);
    }
  };
}

/** The rows of a tensor: `heads` heads of [2, rows / 2] rows that are stored as [rows / 2, 2]. */
type InterleavedRows = {
  readonly heads: number;
  readonly rows: number;
  /** Elements of a row. */
  readonly columns: number;
  /** Bytes of an element. */
  readonly unit: number;
};

/**
 * The rows in their order: row s rows / 2 + i of a head is its stored row 2 i + s. Neighbours are stored two rows
 * apart, so that they are read together, through `span`, and picked out; rows too long for that are read one by one.
 */
function readInterleaved(own: ReadSpan, rows: InterleavedRows, span: Uint8Array): ReadSpan {
  const { columns, unit } = rows;
  const headRows = rows.rows / rows.heads;
  const half = headRows / 2;
  const storedOf = (row: number): number => {
    const inHead = row % headRows;
    return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
  };
  const rowsAtOnce = Math.floor(span.length / (columns * unit));
  const readRow = async (first: number, count: number, target: Uint8Array): Promise<void> => {
    const row = Math.floor(first / columns);
    await own(storedOf(row) * columns + (first % columns), count, target);
  };
  const readHead = async (first: number, count: number, target: Uint8Array): Promise<void> => {
    const wanted = listRows(first, count, columns).map((part) => ({ ...part, stored: storedOf(part.row) }));
    wanted.sort((a, b) => a.stored - b.stored);
    for (let next = 0; next < wanted.length; ) {
      const start = wanted[next]?.stored ?? 0;
      const together = wanted.slice(next).filter(({ stored }) => stored < start + rowsAtOnce);
      const last = together.at(-1)?.stored ?? start;
      await own(start * columns, (last - start + 1) * columns, span);
      for (const { stored, column, length, at } of together) {
        const from = ((stored - start) * columns + column) * unit;
        target.set(span.subarray(from, from + length * unit), at * unit);
      }
      next += together.length;
    }
  };
  return async (first, count, target) => {
    // Part after part: a row where a span has no room for two of them, else what one head has.
    const part = rowsAtOnce < 2 ? columns : headRows * columns;
    for (let done = 0; done < count; ) {
      const length = Math.min(count - done, part - ((first + done) % part));
      const into = target.subarray(done * unit, (done + length) * unit);
      await (rowsAtOnce < 2 ? readRow : readHead)(first + done, length, into);
      done += length;
    }
  };
}

/** The rows of a span: the columns of each that it has, and where they go in it. */
function listRows(first: number, count: number, columns: number) {
  const parts: { row: number; column: number; length: number; at: number }[] = [];
  for (let done = 0; done < count; ) {
    const column = (first + done) % columns;
    const length = Math.min(columns - column, count - done);
    parts.push({ row: Math.floor((first + done) / columns), column, length, at: done });
    done += length;
  }
  return parts;
}
