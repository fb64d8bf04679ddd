// A matrix of a checkpoint through a scheme that stores parts, window by window: one part streams out while the rows
// pass, the small ones are kept for their own turn in the file. It writes no store. Called by the step that writes
// folders of quantized tensors.
import assert from "node:assert/strict";
import type { TensorEntry } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { type FloatDtype, isFloatDtype } from "../core/ops/cast.ts";
import { type Block, createScalarKernels, type Kernels } from "../core/ops/kernels.ts";
import { allocatedBytes } from "../core/ops/memory.ts";
import type { Loss } from "../core/ops/quantize.ts";
import { storedTensor } from "../core/plan/adapter.ts";
import { packedBytes } from "../core/plan/memory.ts";
import { allocateParts, type PartBytes } from "../core/schemes/part-matrix.ts";
import { largestOf } from "../core/schemes/rounding.ts";
import {
  type Matrix,
  type Part,
  type PartScheme,
  partRange,
  type RowWindow,
  type TensorFacts,
} from "../core/schemes/scheme.ts";
import { DTYPE_BITS, elementCount, tensorBytes } from "../core/tensor.ts";
import type { OpenStore } from "../stores/store.ts";
import { createStoredReader, type StoredReader } from "./stored-reader.ts";

/** Elements of a window, unless the scheme needs more rows together. Higher: more memory, no less work. */
const WINDOW_ELEMENTS = 1 << 20;

/** Parts beyond this are made anew when their turn comes instead of being kept: scales of a large tensor fit easily. */
const KEPT_BYTES_MAX = 128 * 2 ** 20;

/** Where the stored tensors lie: a folder's URI, and how to open it. */
export type SourceDeps = { readonly source: string; readonly openStore: OpenStore; readonly signal: AbortSignal };

export type ReadRows = (first: number, count: number) => Promise<Float32Array>;

export type PartsInput = {
  readonly scheme: PartScheme;
  readonly matrix: Matrix;
  readonly parts: readonly Part[];
  readonly read: ReadRows;
  readonly facts: TensorFacts;
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

type ElementReader = { readonly kernels: Kernels; readonly block: Block; readonly read: StoredReader["read"] };

/** Reads elements of a stored tensor, at most `elements` at a time; `moreBytes` are left for the caller. */
function createElementReader(entry: TensorEntry, elements: number, deps: SourceDeps, moreBytes: number): ElementReader {
  const { source, openStore, signal } = deps;
  const bytes = (elements * DTYPE_BITS[entry.dtype]) / 8;
  const kernels = createScalarKernels(allocatedBytes(bytes) + packedBytes(entry) + moreBytes);
  const block = kernels.allocateBlock(bytes);
  const sources = [{ model: "", store: source, prefix: "", digests: undefined }];
  const { read } = createStoredReader(storedTensor(entry, 0), { sources, openStore, signal, kernels });
  return { kernels, block, read };
}

/** The bytes of a tensor as its dtype says, also where they are stored otherwise; a piece is valid until the next. */
export async function* elementPieces(entry: TensorEntry, deps: SourceDeps): AsyncGenerator<Uint8Array> {
  const total = elementCount(entry.shape);
  const step = Math.min(WINDOW_ELEMENTS, total);
  const { block, read } = createElementReader(entry, step, deps, 0);
  for (let first = 0; first < total; first += step) {
    deps.signal.throwIfAborted();
    const count = Math.min(step, total - first);
    await read(first, count, block);
    yield block.bytes.subarray(0, (count * DTYPE_BITS[entry.dtype]) / 8);
  }
}

/** Reads rows of a stored matrix of floats. The values are valid until the next call. Throws QuantizeNotFinite. */
export function createRowReader(entry: TensorEntry, columns: number, maxRows: number, deps: SourceDeps): ReadRows {
  const dtype: FloatDtype | undefined = isFloatDtype(entry.dtype) ? entry.dtype : undefined;
  assert.ok(dtype !== undefined, "the plan lets only floats through");
  const elements = maxRows * columns;
  const { kernels, block, read } = createElementReader(entry, elements, deps, allocatedBytes(4 * elements));
  const tile = kernels.allocateTile(elements);
  return async (first, count) => {
    deps.signal.throwIfAborted();
    await read(first * columns, count * columns, block);
    if (kernels.widen(dtype, block, 0, tile, count * columns) > 0) throw notFinite(entry.name, "NaN or infinity");
    return tile.values.subarray(0, count * columns);
  };
}

/** max|x| of a stored matrix. */
export async function measureLargest(read: ReadRows, matrix: Matrix): Promise<number> {
  const step = measuredRows(matrix);
  let largest = 0;
  for (let first = 0; first < matrix.rows; first += step) {
    const values = await read(first, Math.min(step, matrix.rows - first));
    largest = Math.max(largest, largestOf(values, 0, values.length));
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
  const { scheme, matrix, parts, read, facts, tensor } = input;
  const streamed = parts.find(({ name, along }) => name === wanted && along !== undefined);
  const kept = allocateParts(parts.filter((part) => part !== streamed && (part.name === wanted || isSmall(part))));
  const step = windowRows(scheme, matrix);
  const back = new Float32Array(step * matrix.columns);
  let [signal, noise] = [0, 0];
  for (let first = 0; first < matrix.rows; first += step) {
    const count = Math.min(step, matrix.rows - first);
    const values = await read(first, count);
    const window: RowWindow = { matrix, first, count, values, parts: bytesOf(parts, kept, first, count) };
    scheme.quantize(window, facts);
    const restored = back.subarray(0, values.length);
    scheme.dequantize({ ...window, values: restored });
    for (let i = 0; i < values.length; i++) {
      const [value, lost] = [values[i] ?? 0, (values[i] ?? 0) - (restored[i] ?? 0)];
      signal += value * value;
      noise += lost * lost;
    }
    if (!Number.isFinite(noise)) throw notFinite(tensor, `a scale beyond ${scheme.id}`);
    const piece = streamed === undefined ? undefined : window.parts.get(wanted);
    if (piece !== undefined) yield piece;
  }
  const whole = streamed === undefined ? kept.get(wanted) : undefined;
  if (whole !== undefined) yield whole;
  return { parts: new Map([...kept].filter(([name]) => name !== wanted)), loss: { signal, noise } };
}

function isSmall({ dtype, shape }: Part): boolean {
  return tensorBytes(dtype, shape) <= KEPT_BYTES_MAX;
}

/** The window's bytes of every part: within those kept, or in memory of its own. */
function bytesOf(parts: readonly Part[], kept: PartBytes, first: number, count: number) {
  return new Map(
    parts.map((part) => {
      const { offset, bytes } = partRange(part, first, count);
      return [part.name, kept.get(part.name)?.subarray(offset, offset + bytes) ?? new Uint8Array(bytes)];
    }),
  );
}

function notFinite(tensor: string, found: string): MergeyardError {
  return new MergeyardError("QuantizeNotFinite", { where: { tensor }, found, expected: "finite numbers" });
}
