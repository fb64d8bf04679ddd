// Embeddings with their rows in another order: every window is gathered row by row from the tensors that hold them;
// rows that no tensor holds are computed. Memory is a few spans, whatever the size of the vocabulary.
// The meaning of the runs is core/plan/schema.ts's; why there is no pass of its own: docs/adr/0007-tokenizer-merge.md.
import assert from "node:assert/strict";
import { floatDtype } from "../core/ops/cast.ts";
import type { Block, Kernels, Tile } from "../core/ops/kernels.ts";
import { GATHER_SPAN_BYTES, GATHER_SPANS } from "../core/plan/memory.ts";
import { ROWS_MEAN, ROWS_PADDING, ROWS_ZERO, type RowGather } from "../core/plan/schema.ts";
import { type Dtype, elementBytes } from "../core/tensor.ts";
import { oneAtATime } from "./one-at-a-time.ts";
import { type ReadElements, type StoredReader, subBlock } from "./stored-reader.ts";

/** Bytes between two wanted rows that are rather read than skipped: about what a request costs on a disk. */
const GAP_BYTES = 16 * 1024;

/** Elements [first, first + count) of a tensor, and the element of the window where they go. */
type Piece = { readonly from: number; readonly first: number; readonly count: number; readonly at: number };

/** Memory of one read that goes through memory of its own. */
type Scratch = { readonly block: Block; readonly tile: Tile };

/**
 * Rows of `tensors`, `columns` elements each, in the order of the runs. Windows may be asked for in any order. Takes
 * memory of the kernels for good, as the plan counts it.
 */
export function createRowReader(
  rows: RowGather,
  columns: number,
  tensors: readonly StoredReader[],
  kernels: Kernels,
): ReadElements {
  const gather = createGather(rows, columns, tensors, kernels);
  const padding = rows.runs.at(-1)?.[0] === ROWS_PADDING ? createPadding(gather, columns, kernels) : undefined;
  const read: ReadElements = async (first, count, target) => {
    const real = Math.max(0, Math.min(count, gather.realElements - first));
    if (real > 0) await gather.read(first, real, target);
    if (padding === undefined) return;
    padding.add(first, floats(target, 0, real).values);
    if (real < count) await padding.fill((first + real) % columns, floats(target, real, count - real).values);
  };
  // One window at a time: the spans' memory is shared, and sums go on where they ended.
  return oneAtATime(read);
}

type Gather = {
  /** Elements before the padding. */
  readonly realElements: number;
  /** Reads elements that are no padding, in the gathered dtype. */
  read(first: number, count: number, target: Block): Promise<void>;
};

function createGather(rows: RowGather, columns: number, tensors: readonly StoredReader[], kernels: Kernels): Gather {
  const starts = runStarts(rows);
  const realRows = rows.runs.reduce((sum, [from, , count]) => sum + (from === ROWS_PADDING ? 0 : count), 0);
  const unit = elementBytes(rows.dtype, 1);
  const scratch = Array.from({ length: GATHER_SPANS }, () => ({
    block: kernels.allocateBlock(GATHER_SPAN_BYTES),
    tile: kernels.allocateTile(MEAN_ELEMENTS),
  }));
  return {
    realElements: realRows * columns,
    async read(first, count, target) {
      const pieces = [...piecesOf(rows, starts, columns, first, count)];
      for (const { from, at, count: length } of pieces) {
        if (from === ROWS_ZERO) target.bytes.fill(0, at * unit, (at + length) * unit);
      }
      const means = pieces.filter(({ from }) => from === ROWS_MEAN).flatMap((piece) => [...splitMean(piece, columns)]);
      const stored = pieces.filter(({ from }) => from >= 0);
      const jobs = [
        ...joinPieces(stored, tensors, rows.dtype).map(
          (span) => (memory: Scratch) => readSpan(span, { tensors, dtype: rows.dtype, kernels, target, memory }),
        ),
        ...means.map((piece) => (memory: Scratch) => {
          const terms = rows.means[Math.floor(piece.first / columns)] ?? [];
          return readMean(piece, terms, columns, { tensors, dtype: rows.dtype, kernels, target, memory });
        }),
      ];
      await runBounded(jobs, scratch);
    },
  };
}

type ReadTask = {
  readonly tensors: readonly StoredReader[];
  readonly dtype: Dtype;
  readonly kernels: Kernels;
  readonly target: Block;
  readonly memory: Scratch;
};

/** Straight into the window where one piece is wanted as it is stored, else through the job's own memory. */
async function readSpan({ from, pieces, end }: Span, task: ReadTask): Promise<void> {
  const { tensors, dtype, kernels, target, memory } = task;
  const tensor = pick(tensors, from);
  const [unit, outUnit] = [elementBytes(tensor.dtype, 1), elementBytes(dtype, 1)];
  const [start, more] = pieces;
  if (start === undefined) return;
  if (more === undefined && tensor.dtype === dtype) {
    return tensor.read(start.first, start.count, subBlock(target, start.at * outUnit, start.count * outUnit));
  }
  await tensor.read(start.first, end - start.first, memory.block);
  for (const piece of pieces) {
    const offset = (piece.first - start.first) * unit;
    if (tensor.dtype === dtype) {
      target.bytes.set(memory.block.bytes.subarray(offset, offset + piece.count * unit), piece.at * outUnit);
    } else {
      kernels.widen(floatDtype(tensor.dtype), memory.block, offset, floats(target, piece.at, piece.count), piece.count);
    }
  }
}

/** float32 sum of the rows in order, divided by their number. */
async function readMean(
  piece: Piece,
  terms: RowGather["means"][number],
  columns: number,
  { tensors, kernels, target, memory }: ReadTask,
): Promise<void> {
  const mean = floats(target, piece.at, piece.count);
  kernels.fill(mean, 0, piece.count);
  for (const [from, row] of terms) {
    const tensor = pick(tensors, from);
    await tensor.read(row * columns + (piece.first % columns), piece.count, memory.block);
    kernels.widen(floatDtype(tensor.dtype), memory.block, 0, memory.tile, piece.count);
    kernels.add(mean, mean, memory.tile, piece.count);
  }
  kernels.divide(mean, mean, terms.length, piece.count);
}

/** Output row where each run starts. */
function runStarts({ runs }: RowGather): readonly number[] {
  let next = 0;
  return runs.map(([, , count]) => {
    const start = next;
    next += count;
    return start;
  });
}

/** A window as contiguous pieces of tensors, in output order. */
function* piecesOf(
  { runs }: RowGather,
  starts: readonly number[],
  columns: number,
  first: number,
  count: number,
): Generator<Piece> {
  let run = lastAtMost(starts, Math.floor(first / columns));
  for (let done = 0; done < count; run += 1) {
    const [from, row, length] = runs[run] ?? [ROWS_PADDING, 0, 0];
    const start = (starts[run] ?? 0) * columns;
    assert.ok(length > 0 && from !== ROWS_PADDING, "the plan gathers beyond a tensor's rows");
    const offset = first + done - start;
    const size = Math.min(length * columns - offset, count - done);
    yield { from, first: row * columns + offset, count: size, at: done };
    done += size;
  }
}

/** Index of the last of the ascending values that is at most `value`. */
function lastAtMost(values: readonly number[], value: number): number {
  let [low, high] = [0, values.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((values[middle] ?? 0) <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Elements of a mean that are computed at once: an F64 row of them fits a span. */
const MEAN_ELEMENTS = GATHER_SPAN_BYTES / 8;

/** Computed rows one by one, each short enough. */
function* splitMean(piece: Piece, columns: number): Generator<Piece> {
  for (let done = 0; done < piece.count; ) {
    const inRow = columns - ((piece.first + done) % columns);
    const count = Math.min(inRow, piece.count - done, MEAN_ELEMENTS);
    yield { from: piece.from, first: piece.first + done, count, at: piece.at + done };
    done += count;
  }
}

/** A piece that is converted on its way, in parts that fit a span. */
function* splitConverted(piece: Piece, dtype: Dtype): Generator<Piece> {
  const part = GATHER_SPAN_BYTES / elementBytes(dtype, 1);
  for (let done = 0; done < piece.count; done += part) {
    const count = Math.min(part, piece.count - done);
    yield { from: piece.from, first: piece.first + done, count, at: piece.at + done };
  }
}

/** Pieces of one tensor that one read fetches. */
type Span = { readonly from: number; readonly pieces: Piece[]; end: number };

/** Pieces by tensor and place, neighbours together: rows of a permuted vocabulary often lie close to one another. */
function joinPieces(pieces: readonly Piece[], tensors: readonly StoredReader[], dtype: Dtype): readonly Span[] {
  const spans: Span[] = [];
  const short = pieces.flatMap((piece) => {
    const stored = pick(tensors, piece.from).dtype;
    return stored === dtype ? [piece] : [...splitConverted(piece, stored)];
  });
  for (const piece of short.sort((a, b) => a.from - b.from || a.first - b.first)) {
    const unit = elementBytes(pick(tensors, piece.from).dtype, 1);
    const last = spans.at(-1);
    const start = last?.pieces[0];
    const end = Math.max(last?.end ?? 0, piece.first + piece.count);
    const joins =
      last?.from === piece.from &&
      start !== undefined &&
      (piece.first - last.end) * unit <= GAP_BYTES &&
      (end - start.first) * unit <= GATHER_SPAN_BYTES;
    if (joins) {
      last.pieces.push(piece);
      last.end = end;
    } else spans.push({ from: piece.from, pieces: [piece], end: piece.first + piece.count });
  }
  return spans;
}

/** Runs jobs, a few at a time, each with memory of its own. */
async function runBounded(
  jobs: readonly ((memory: Scratch) => Promise<void>)[],
  scratch: readonly Scratch[],
): Promise<void> {
  let next = 0;
  const work = async (memory: Scratch): Promise<void> => {
    for (let job = jobs[next++]; job !== undefined; job = jobs[next++]) await job(memory);
  };
  // All settle before the first failure goes on: nothing may still write into the window then.
  const ends = await Promise.allSettled(scratch.slice(0, jobs.length).map(work));
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

/** The mean of all real rows: float64 sums of the float32 values, row after row, rounded once. */
function createPadding(gather: Gather, columns: number, kernels: Kernels) {
  const sums = new Float64Array(columns);
  const memory = kernels.allocateBlock(GATHER_SPAN_BYTES);
  let summed = 0;
  const add = (first: number, values: Float32Array): void => {
    if (first !== summed) return;
    for (let index = 0, column = first % columns; index < values.length; index++) {
      sums[column] = (sums[column] ?? 0) + (values[index] ?? 0);
      column = column + 1 === columns ? 0 : column + 1;
    }
    summed += values.length;
  };
  return {
    add,
    async fill(column: number, values: Float32Array): Promise<void> {
      // What no window has passed by: a method that looks at samples asks for padding before the rows.
      while (summed < gather.realElements) {
        const count = Math.min(GATHER_SPAN_BYTES / 4, gather.realElements - summed);
        await gather.read(summed, count, memory);
        add(summed, floats(memory, 0, count).values);
      }
      const rows = gather.realElements / columns;
      values.forEach((_, index) => {
        values[index] = (sums[(column + index) % columns] ?? 0) / rows;
      });
    },
  };
}

/** float32 elements [at, at + count) of a window. */
function floats({ address, bytes }: Block, at: number, count: number): Tile {
  return { address: address + 4 * at, values: new Float32Array(bytes.buffer, bytes.byteOffset + 4 * at, count) };
}

function pick(tensors: readonly StoredReader[], index: number): StoredReader {
  const tensor = tensors[index];
  assert.ok(tensor !== undefined, `a run of tensor ${index}, of ${tensors.length}`);
  return tensor;
}
