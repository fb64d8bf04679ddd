// A matrix of a checkpoint through a scheme that stores parts, window by window: one part streams out while the rows
// pass, the small ones are kept for their own turn in the file. It writes no store. Called by
// write-parts.ts.
import type { TensorEntry } from "../core/checkpoint.ts";
import { floatDtype } from "../core/ops/cast.ts";
import type { Block, Kernels, Tile } from "../core/ops/kernels.ts";
import type { Loss } from "../core/ops/loss.ts";
import { allocatedBytes } from "../core/ops/memory.ts";
import { storedTensor } from "../core/plan/adapter.ts";
import { packedBytes, partsQuantizerBytes } from "../core/plan/memory.ts";
import { allocateParts, type PartBytes } from "../core/schemes/part-matrix.ts";
import { largestOf } from "../core/schemes/rounding.ts";
import { type Matrix, type Part, type PartScheme, partRange, type TensorFacts } from "../core/schemes/scheme.ts";
import { elementBytes, elementCount, tensorBytes } from "../core/tensor.ts";
import type { OpenStore } from "../stores/store.ts";
import { createPartsQuantizer } from "./parts-quantizer.ts";
import { notFinite } from "./quantize-rows.ts";
import { createStoredReader, type StoredReader } from "./stored-reader.ts";

/**
 * Elements of a window, unless the scheme needs more rows together: its values, codes and stored bytes stay in a core's
 * cache. Losses are added by window, so that it is part of the numbers, but of no byte.
 */
const WINDOW_ELEMENTS = 1 << 16;
/** Elements read at a time where reading is worth a trip: from a local store the thread reads windows as it goes. */
const READ_ELEMENTS = 1 << 20;

/** Parts beyond this are made anew when their turn comes instead of being kept: scales of a large tensor fit easily. */
const KEPT_BYTES_MAX = 128 * 2 ** 20;

/** Where the stored tensors lie: a folder's URI, and how to open it; and what they are read into. */
export type SourceDeps = {
  readonly source: string;
  readonly openStore: OpenStore;
  readonly signal: AbortSignal;
  /** The store is local, and the thread has nothing else to do: it reads within the call. */
  readonly mayBlock: boolean;
  /** Readers take memory of it for good: whoever makes them marks and releases. */
  readonly kernels: Kernels;
};

/** Rows as values at the start of a tile. */
export type ReadRows = (first: number, count: number) => Promise<Tile>;

export type PartsInput = {
  readonly scheme: PartScheme;
  readonly matrix: Matrix;
  readonly parts: readonly Part[];
  readonly read: ReadRows;
  readonly facts: TensorFacts;
  /** What `read` reads into, with room for `streamBytes` more. */
  readonly kernels: Kernels;
  /** For errors. */
  readonly tensor: string;
};

/** Rows of one window. */
export function windowRows(scheme: PartScheme, { rows, columns }: Matrix): number {
  if (scheme.needs === "tensor" && scheme.measures === "nothing") return rows;
  const together = scheme.rowsTogether(columns);
  return Math.min(rows, together * Math.max(1, Math.floor(WINDOW_ELEMENTS / (together * columns))));
}

/** Rows that are measured at a time. */
export function measuredRows({ rows, columns }: Matrix): number {
  return Math.min(rows, Math.max(1, Math.floor(WINDOW_ELEMENTS / columns)));
}

type ElementReader = { readonly block: Block; readonly read: StoredReader["read"] };

/** Reads elements of a stored tensor, at most `elements` at a time. */
function createElementReader(entry: TensorEntry, elements: number, deps: SourceDeps): ElementReader {
  const { source, openStore, signal, mayBlock, kernels } = deps;
  const block = kernels.allocateBlock(elementBytes(entry.dtype, elements));
  const sources = [{ model: "", store: source, prefix: "", digests: undefined }];
  const { read } = createStoredReader(storedTensor(entry, 0), { sources, openStore, signal, mayBlock, kernels });
  return { block, read };
}

function elementReaderBytes(entry: TensorEntry, elements: number): number {
  return allocatedBytes(elementBytes(entry.dtype, elements)) + packedBytes(entry);
}

/** The bytes of a tensor as its dtype says, also where they are stored otherwise; a piece is valid until the next. */
export async function* elementPieces(entry: TensorEntry, deps: SourceDeps): AsyncGenerator<Uint8Array> {
  const total = elementCount(entry.shape);
  const step = Math.min(READ_ELEMENTS, total);
  const mark = deps.kernels.mark();
  const { block, read } = createElementReader(entry, step, deps);
  for (let first = 0; first < total; first += step) {
    deps.signal.throwIfAborted();
    const count = Math.min(step, total - first);
    await read(first, count, block);
    yield block.bytes.subarray(0, elementBytes(entry.dtype, count));
  }
  deps.kernels.release(mark);
}

/** Kernel memory of `elementPieces`. */
export function elementPiecesBytes(entry: TensorEntry): number {
  return elementReaderBytes(entry, Math.min(READ_ELEMENTS, elementCount(entry.shape)));
}

/** Reads rows of a stored matrix of floats. The values are valid until the next call. Throws QuantizeNotFinite. */
export function createRowReader(entry: TensorEntry, columns: number, maxRows: number, deps: SourceDeps): ReadRows {
  const { kernels, signal } = deps;
  const dtype = floatDtype(entry.dtype);
  const rows = elementCount(entry.shape) / columns;
  const atOnce = deps.mayBlock ? maxRows : readRows(columns, maxRows);
  const { block, read } = createElementReader(entry, atOnce * columns, deps);
  const tile = kernels.allocateTile(maxRows * columns);
  let [begin, end] = [0, 0];
  return async (first, count) => {
    signal.throwIfAborted();
    if (first < begin || first + count > end) {
      [begin, end] = [first, Math.min(rows, first + atOnce)];
      await read(begin * columns, (end - begin) * columns, block);
    }
    const offset = elementBytes(dtype, (first - begin) * columns);
    if (kernels.widen(dtype, block, offset, tile, count * columns) > 0) throw notFinite(entry.name);
    return tile;
  };
}

/** Rows read at a time from a store that is not local. */
function readRows(columns: number, maxRows: number): number {
  return Math.max(maxRows, Math.floor(READ_ELEMENTS / columns));
}

/** Kernel memory of a row reader. */
export function rowReaderBytes(entry: TensorEntry, columns: number, maxRows: number): number {
  return elementReaderBytes(entry, readRows(columns, maxRows) * columns) + allocatedBytes(4 * maxRows * columns);
}

/** Kernel memory of one stream beside its reader. */
export function streamBytes(scheme: PartScheme, matrix: Matrix): number {
  return partsQuantizerBytes(scheme, matrix, windowRows(scheme, matrix));
}

/** max|x| of a stored matrix. */
export async function measureLargest(read: ReadRows, matrix: Matrix): Promise<number> {
  const step = measuredRows(matrix);
  let largest = 0;
  for (let first = 0; first < matrix.rows; first += step) {
    const count = Math.min(step, matrix.rows - first);
    const { values } = await read(first, count);
    largest = Math.max(largest, largestOf(values, 0, count * matrix.columns));
  }
  return largest;
}

/** Parts that wait for their turn, and what the whole matrix lost once all its rows have passed. */
export type KeptParts = { readonly parts: PartBytes; readonly loss: Loss };

/**
 * The bytes of part `wanted`, in order; returns the other parts that are small enough to be kept. A piece is valid
 * until the next is asked for. Throws QuantizeNotFinite, and what reading throws.
 */
export async function* streamPart(input: PartsInput, wanted: string): AsyncGenerator<Uint8Array, KeptParts> {
  const { scheme, matrix, parts, read, facts, kernels, tensor } = input;
  const streamed = parts.find(({ name, along }) => name === wanted && along !== undefined);
  const kept = allocateParts(parts.filter((part) => part !== streamed && (part.name === wanted || isSmall(part))));
  const step = windowRows(scheme, matrix);
  const quantizer = createPartsQuantizer({ tensor, scheme, matrix, parts, facts, rows: step }, kernels);
  for (let first = 0; first < matrix.rows; first += step) {
    const count = Math.min(step, matrix.rows - first);
    const made = quantizer.quantize(await read(first, count), first, count);
    for (const part of parts) {
      // What belongs to the tensor as a whole grows in its place, and is complete with the last window.
      if (part.along === undefined && first + count < matrix.rows) continue;
      const bytes = made.get(part.name);
      if (bytes !== undefined) kept.get(part.name)?.set(bytes, partRange(part, first, count).offset);
    }
    const piece = streamed === undefined ? undefined : made.get(wanted);
    if (piece !== undefined) yield piece;
  }
  const whole = streamed === undefined ? kept.get(wanted) : undefined;
  if (whole !== undefined) yield whole;
  return { parts: new Map([...kept].filter(([name]) => name !== wanted)), loss: quantizer.loss() };
}

/** Bytes of the parts that a stream of part `wanted` keeps. */
export function keptBytes(parts: readonly Part[], wanted: string | undefined): number {
  const kept = parts.filter((part) => (part.name === wanted ? part.along === undefined : isSmall(part)));
  return kept.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0);
}

function isSmall({ dtype, shape }: Part): boolean {
  return tensorBytes(dtype, shape) <= KEPT_BYTES_MAX;
}
