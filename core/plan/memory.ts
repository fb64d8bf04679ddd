// How much memory a merge takes: one formula, used by the planner to bound a unit and by the engine to size a thread's
// kernel memory, so that the bound the plan shows is the bound that holds.
import assert from "node:assert/strict";
import type { PartsPacking, TensorEntry } from "../checkpoint.ts";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import { columnOrder } from "../formats/quantized/compressed-tensors-read.ts";
import { type MergeMethod, type Round, type ScratchTensor, tileElementsOf } from "../methods/method.ts";
import type { HalfDtype } from "../ops/cast.ts";
import { type CombineDtype, isCombineDtype } from "../ops/combine.ts";
import { TILE_ELEMENTS } from "../ops/kernels.ts";
import { allocatedBytes } from "../ops/memory.ts";
import { compressedScheme } from "../schemes/compressed-scheme.ts";
import { folderScheme } from "../schemes/folder-scheme.ts";
import { BLOCK_SCHEMES, type BlockSchemeId, knownFolderScheme } from "../schemes/registry.ts";
import { type Matrix, type Part, type PartScheme, partRange, rowBytes, type StoredScheme } from "../schemes/scheme.ts";
import { type Dtype, elementBytes, elementCount, tensorBytes } from "../tensor.ts";
import {
  type DerivedFile,
  type DerivedModule,
  type DerivedTensor,
  placesOf,
  type StoredTensor,
  type UnitInput,
  type UnitTensor,
} from "./schema.ts";

/** Elements of the largest window of inputs that lie on this machine: 1 MiB of BF16, small enough to stay in cache. */
const WINDOW_ELEMENTS_LOCAL = 64 * TILE_ELEMENTS;
/** Of inputs behind a network: 4 MiB of BF16, which take longer than the way of a request there and back. */
const WINDOW_ELEMENTS_REMOTE = 4 * WINDOW_ELEMENTS_LOCAL;

/** Memory of a worker process before any kernel memory: runtime, code, and per thread its own heap. */
const PROCESS_BYTES = 96 * 2 ** 20;
const THREAD_BYTES = 32 * 2 ** 20;

/** How the engine cuts one tensor: `window` elements are read at a time, `tile` elements handed to the method. */
export type Cut = { readonly windowElements: number; readonly tileElements: number };

/** Properties of a method that decide the cut; a "copy" has element locality, no passes and no scratch. */
export type CutMethod = Pick<MergeMethod, "locality" | "scratchBytes" | "storesWindows" | "stream">;

/** The cut of a tensor for a method. Tiles are part of the numerics, windows are not. */
export function cutTensor(method: CutMethod, shape: readonly number[], windowElements: number): Cut {
  const total = Math.max(1, elementCount(shape));
  if (method.locality === "tensor") return { windowElements: total, tileElements: total };
  const tileElements = tileElementsOf(method.locality, shape);
  return { windowElements: tileElements * Math.max(1, Math.floor(windowElements / tileElements)), tileElements };
}

/** Elements of an input beside `count` of the output's: as many, or all of a statistic of a shape of its own. */
export function inputElements({ statistic, shape }: Pick<UnitInput, "statistic" | "shape">, count: number): number {
  return statistic === "whole" ? elementCount(shape) : count;
}

/** Who sees a tensor's values between its stored inputs and its stored result: statistics, what is derived of it. */
export type Watchers = { readonly statistics: boolean; readonly derives: boolean };
export const UNWATCHED: Watchers = { statistics: false, derives: false };

/** The dtype of all inputs, where kernels read it as it is stored and nothing is rounded first. */
export function commonDtype({ inputs }: Pick<UnitTensor, "inputs">): CombineDtype | undefined {
  const [dtype = "F32"] = inputs.map(valueDtype);
  const isCommon = inputs.every((input) => valueDtype(input) === dtype && !isRounded(input));
  return isCommon && isCombineDtype(dtype) ? dtype : undefined;
}

/** True where the values that take part are not the stored ones. */
export function isRounded<I extends UnitInput>(input: I): input is I & { readonly working: HalfDtype } {
  return input.working !== undefined && input.working !== valueDtype(input);
}

/** Elements of the float32 tiles: a tile's; where nothing is widened, enough for a look at what is not finite. */
export function widenedElements(method: CutMethod, tensor: UnitTensor, watchers: Watchers): number {
  const total = Math.max(1, elementCount(tensor.shape));
  const tile = Math.min(tileElementsOf(method.locality, tensor.shape), total);
  const isWatched = watchers.statistics || watchers.derives;
  const isStored = !isWatched && method.storesWindows?.(tensor) === true && commonDtype(tensor) === tensor.dtype;
  return isStored ? Math.min(tile, TILE_ELEMENTS) : tile;
}

/**
 * Kernel memory that one thread needs for one tensor: two windows an input and for the output, tiles, scratch; with
 * statistics a tile more for each input, and one.
 */
export function kernelBytes(method: CutMethod, tensor: UnitTensor, windowElements: number, watchers: Watchers): number {
  const readers = tensor.inputs.reduce((sum, input) => sum + readerBytes(input), 0);
  const scratch = method.scratchBytes?.(tensor) ?? 0;
  if (method.stream !== undefined) return readers + STREAM_BYTES + scratch;
  const total = Math.max(1, elementCount(tensor.shape));
  const cut = cutTensor(method, tensor.shape, windowElements);
  const window = Math.min(cut.windowElements, total);
  const tile = widenedElements(method, tensor, watchers);
  const inputWindows = tensor.inputs.reduce(
    (sum, input) => sum + 2 * allocatedBytes(elementBytes(valueDtype(input), inputElements(input, window))),
    0,
  );
  const inputTiles = tensor.inputs.reduce((sum, input) => sum + allocatedBytes(4 * inputElements(input, tile)), 0);
  const outputWindows = 2 * allocatedBytes(elementBytes(tensor.dtype, window));
  const inputs = tensor.inputs.length;
  const tiles = 1 + (watchers.statistics ? inputs + 1 : 0);
  return readers + inputWindows + inputTiles + outputWindows + tiles * allocatedBytes(4 * tile) + scratch;
}

/** A round of a method, as memory sees it. */
export type MeasuringMethod = Pick<MergeMethod, "locality"> & { readonly round: Round };

/**
 * Memory that one thread needs to measure one tensor: as for merging it, with the round's scratch, and the totals of
 * the tensor and of the thread as float64.
 */
export function measuringBytes(
  { locality, round }: MeasuringMethod,
  tensor: UnitTensor,
  windowElements: number,
): number {
  const scratchBytes = (own: ScratchTensor): number => round.scratchBytes(own);
  const totals = Object.values(round.totals(tensor)).reduce((sum, { length }) => sum + 8 * length, 0);
  return kernelBytes({ locality, scratchBytes }, tensor, windowElements, UNWATCHED) + 2 * totals;
}

/** The dtype in which an input's values come to a method: the stored one, unless rows are computed. */
export function valueDtype({ dtype, rows }: Pick<UnitInput, "dtype" | "rows">): Dtype {
  return rows?.dtype ?? dtype;
}

/** Stored bytes of `count` elements of an input: whole blocks of packed ones, which windows are made of. */
export function storedBytes({ dtype, packing, rows, ranges, shape }: UnitInput, count: number): number {
  if (rows === undefined && packing?.parts !== undefined) {
    const total = ranges.reduce((sum, { bytes }) => sum + bytes, 0);
    return Math.round((total * count) / Math.max(1, elementCount(shape)));
  }
  const scheme = rows === undefined ? packing?.scheme : undefined;
  return scheme === undefined ? elementBytes(dtype, count) : rowBytes(BLOCK_SCHEMES[scheme], count);
}

/** Reads of gathered rows that go on at a time, each through memory of its own, and the bytes of that memory. */
export const GATHER_SPANS = 8;
export const GATHER_SPAN_BYTES = 256 * 1024;

/** Values of a left factor that are kept at a time, and bytes of a right one that are read at a time. */
export const LORA_LEFT_ELEMENTS = 65_536;
export const LORA_SPAN_BYTES = 2 ** 20;

/** Bytes that a method reads at a time of inputs that it reads in an order of its own. */
export const STREAM_BYTES = 2 ** 20;

/** Elements that a quantized output takes at a time, unless one head of attention has more. */
const SINK_ELEMENTS = 1 << 16;

/** Rows that one derived tensor collects before it quantizes them, whole heads where rows of heads move. */
export function sinkRows({ shape, permutedHeads }: Pick<DerivedTensor, "shape" | "permutedHeads">) {
  // The values of a bias that move are rows of one.
  const columns = shape.length === 1 && permutedHeads !== undefined ? 1 : (shape.at(-1) ?? 1);
  const rows = elementCount(shape) / columns;
  const headRows = permutedHeads === undefined ? 1 : rows / permutedHeads;
  const heads = Math.max(1, Math.floor(SINK_ELEMENTS / (headRows * columns)));
  return { columns, rows, headRows, rowsAtOnce: Math.min(rows, headRows * heads) };
}

/** The matrix of a module that is quantized into parts, and the rows that its sink collects; undefined for a copy. */
export function sinkMatrix({ scheme: id, scales, shape }: DerivedModule) {
  if (id === undefined || scales === undefined) return undefined;
  const scheme = knownFolderScheme(id);
  const [rows = 0, columns = 0] = shape;
  const matrix: Matrix = { rows, columns, dtype: scales };
  const together = scheme.rowsTogether(columns);
  const rowsAtOnce = Math.min(rows, together * Math.max(1, Math.floor(SINK_ELEMENTS / (together * columns))));
  const made = scheme.parts(matrix);
  // The first is written as it comes; what goes along with the rows beside it waits for the end of the matrix.
  const kept = made.slice(1).filter(({ along }) => along !== undefined);
  const keptBytes = kept.reduce((sum, { dtype, shape: own }) => sum + tensorBytes(dtype, own), 0);
  return { scheme, matrix, parts: made, kept, rowsAtOnce, keptBytes };
}

/** A Hessian as it is stored and in float32, and its factor and inverse in float64 while they are made. */
export function hessianBytes({ columns }: Pick<Matrix, "columns">): number {
  return (4 + 4 + 3 * 8) * columns ** 2;
}

/** Memory of the sink of a module: values, what quantizes them, and the parts that are kept. */
function moduleBytes(module: DerivedModule): number {
  const own = sinkMatrix(module);
  if (own === undefined) return 0;
  const values = allocatedBytes(4 * own.rowsAtOnce * own.matrix.columns);
  const hessian = module.hessian === undefined ? 0 : hessianBytes(own.matrix);
  return values + hessian + own.keptBytes + partsQuantizerBytes(own.scheme, own.matrix, own.rowsAtOnce);
}

/** Kernel memory of quantizing rows of blocks: a row read back, its limits, and its importance. */
export function rowQuantizerBytes(id: BlockSchemeId, columns: number, importanceLength: number): number {
  const { limits } = BLOCK_SCHEMES[id];
  const runs = limits === undefined ? 0 : 2 * allocatedBytes((4 * columns) / limits.width);
  return allocatedBytes(4 * columns) + allocatedBytes(4 * importanceLength) + runs;
}

/** Kernel memory of quantizing windows of `rows` rows: their parts, their values read back, and their limits. */
export function partsQuantizerBytes(scheme: PartScheme, matrix: Matrix, rows: number): number {
  const { columns } = matrix;
  const width = scheme.limits?.width(columns);
  const runs = width === undefined ? 0 : 2 * allocatedBytes((4 * rows * columns) / width);
  const parts = scheme.parts(matrix).map((part) => allocatedBytes(partRange(part, 0, rows).bytes));
  return parts.reduce((sum, bytes) => sum + bytes, allocatedBytes(4 * rows * columns) + runs);
}

/** Memory of the sinks of all derived files, whatever tensor is merged: values, blocks and what quantizes them. */
export function sinkBytes(derived: readonly Pick<DerivedFile, "tensors">[]): number {
  const bytesOf = (tensor: DerivedTensor | DerivedModule): number => {
    if ("parts" in tensor) return moduleBytes(tensor);
    const { columns, rowsAtOnce } = sinkRows(tensor);
    const blocks = rowsAtOnce * rowBytes(BLOCK_SCHEMES[tensor.scheme], columns);
    const quantizer = rowQuantizerBytes(tensor.scheme, columns, columns);
    return allocatedBytes(4 * rowsAtOnce * columns) + allocatedBytes(blocks) + quantizer;
  };
  return derived.reduce(
    (sum, { tensors }) => sum + tensors.map(bytesOf).reduce((most, bytes) => Math.max(most, bytes), 0),
    0,
  );
}

/** Bytes of packed values that are read at a time, and as many of values whose rows are put in order. */
export const PACKED_SPAN_BYTES = 2 ** 20;

/** Kernel memory of an input's readers, for as long as its tensor is merged. */
function readerBytes(input: UnitInput): number {
  const tensors = [input, ...(input.rows?.others ?? [])];
  const packed = placesOf(input).reduce((sum, place) => sum + packedBytes(place), 0);
  const adapters = tensors.reduce((sum, tensor) => sum + loraBytes(tensor), packed);
  // For each span its bytes and a tile of half of them, and a span for padding.
  return adapters + (input.rows === undefined ? 0 : GATHER_SPANS * 1.5 * GATHER_SPAN_BYTES + GATHER_SPAN_BYTES);
}

/** Kernel memory of reading packed values. */
export function packedBytes({ packing, shape }: Pick<TensorEntry, "packing" | "shape">): number {
  const spans = [packing?.scheme, packing?.interleavedHeads].filter((part) => part !== undefined);
  const own = spans.length * allocatedBytes(PACKED_SPAN_BYTES);
  if (packing?.parts === undefined) return own;
  // Values of a window, and at most as many bytes of its parts and again for those that belong to the whole.
  const { scheme, matrix, parts: all } = partsMatrix(packing.parts, shape);
  const { rowsAtOnce } = windowOfRows(scheme, matrix);
  const parts = all.map((part) => partRange(part, 0, Math.min(rowsAtOnce, matrix.rows)).bytes);
  const stored = parts.reduce((sum, bytes) => sum + allocatedBytes(bytes), 0);
  return own + stored + allocatedBytes(4 * rowsAtOnce * matrix.columns);
}

/** The scheme and the matrix of a quantized module, and its parts in the order in which they are stored. */
export function partsMatrix(
  packing: PartsPacking,
  [rows = 0, columns = 0]: readonly number[],
): { readonly scheme: StoredScheme; readonly matrix: Matrix; readonly parts: readonly Part[] } {
  if (packing.container !== "compressed-tensors") {
    const own: Matrix = { rows, columns, dtype: "F32" };
    const scheme = folderScheme(packing);
    return { scheme, matrix: own, parts: scheme.parts(own) };
  }
  const { scales, ordered, group, block, ...form } = packing;
  const scheme = compressedScheme({ ...form, group, block, activations: "none" });
  assert.ok(scheme !== undefined, "only known forms are packed");
  const matrix = { rows, columns, dtype: scales };
  const parts = scheme.parts(matrix);
  return { scheme, matrix, parts: ordered ? [...parts, columnOrder(columns)] : parts };
}

/** Rows of a matrix that are dequantized at a time: a span of values, or as many as the scheme needs together. */
export function windowOfRows(scheme: StoredScheme, { rows, columns }: Matrix): { readonly rowsAtOnce: number } {
  if (scheme.needs === "tensor") return { rowsAtOnce: rows };
  const together = scheme.rowsTogether(columns);
  const fitting = Math.floor(PACKED_SPAN_BYTES / (4 * columns * together));
  return { rowsAtOnce: together * Math.max(1, fitting) };
}

/** The right factor in float32 and a span of it, rows of the left one as they are stored and in float32, two tiles. */
function loraBytes({ lora, shape }: StoredTensor): number {
  if (lora === undefined) return 0;
  const left = Math.max(LORA_LEFT_ELEMENTS, lora.rank * (lora.left.part?.step ?? 1));
  const right = allocatedBytes(4 * lora.rank * elementCount(shape.slice(1)));
  return right + LORA_SPAN_BYTES + allocatedBytes(12 * left) + 8 * TILE_ELEMENTS + 64;
}

/** Bound on a worker process that runs tensors needing at most `threadBytes` of kernel memory on `threads` threads. */
function processBytes(threadBytes: number, threads: number): number {
  return PROCESS_BYTES + threads * (THREAD_BYTES + threadBytes);
}

/** Bound on a worker that only digests a file or writes documents: a few pieces of 8 MiB in flight, and headers. */
export const DIGEST_PEAK_BYTES = PROCESS_BYTES + 160 * 2 ** 20;

/** Smallest window that is tried: 8 tiles. */
const WINDOW_ELEMENTS_MIN = WINDOW_ELEMENTS_LOCAL / 8;

/** What a thread's kernels can address, less some for their own tables. */
const KERNEL_BYTES_MAX = 2 ** 32 - 2 ** 25;

/**
 * Memory in which each thread keeps inputs from one pass over a tensor to the next: what `fit` leaves of `memoryBytes`,
 * and no more than the inputs of any tensor take.
 */
export function keptBytes(fit: Fit, memoryBytes: number, tensors: readonly UnitTensor[]): number {
  const { peakBytes, threads, threadBytes } = fit;
  const bytesOf = ({ shape, inputs }: UnitTensor): number =>
    inputs.reduce((sum, input) => sum + elementBytes(valueDtype(input), inputElements(input, elementCount(shape))), 0);
  const needed = tensors.map(bytesOf).reduce((most, bytes) => Math.max(most, bytes), 0);
  const left = Math.min(Math.floor((memoryBytes - peakBytes) / threads), KERNEL_BYTES_MAX - threadBytes);
  return Math.max(0, Math.min(needed, left));
}

/** Windows and threads of a worker process, the kernel memory of each thread, and the bound on all of it. */
export type Fit = {
  readonly windowElements: number;
  readonly threads: number;
  readonly threadBytes: number;
  readonly peakBytes: number;
};

/** Threads and bytes that a worker process may use, and whether it reads windows over a network: no unless said. */
export type Machine = { readonly threads: number; readonly memoryBytes: number; readonly isRemote?: boolean };

/**
 * The most threads up to `threads`, then the largest window, that fit into `memoryBytes`; when nothing does, one thread
 * with the smallest window, whose `peakBytes` then say how much it takes. Neither ever changes a result.
 */
export function fitMemory(needs: (windowElements: number) => number, { threads, memoryBytes, isRemote }: Machine): Fit {
  const largest = isRemote === true ? WINDOW_ELEMENTS_REMOTE : WINDOW_ELEMENTS_LOCAL;
  for (let count = threads; count >= 1; count--) {
    for (let windowElements = largest; windowElements >= WINDOW_ELEMENTS_MIN; windowElements /= 2) {
      const threadBytes = needs(windowElements);
      const peakBytes = processBytes(threadBytes, count);
      if (peakBytes <= memoryBytes) return { windowElements, threads: count, threadBytes, peakBytes };
    }
  }
  const threadBytes = needs(WINDOW_ELEMENTS_MIN);
  const peakBytes = processBytes(threadBytes, 1);
  return { windowElements: WINDOW_ELEMENTS_MIN, threads: 1, threadBytes, peakBytes };
}

/** The fit, where it is within `memoryBytes`. Throws EngineMemoryTooSmall. */
export function needFit(fit: Fit, memoryBytes: number, where: ErrorPlace): Fit {
  if (fit.peakBytes <= memoryBytes) return fit;
  const expected = `at least ${fit.peakBytes} bytes`;
  throw new MergeyardError("EngineMemoryTooSmall", { where, found: `${memoryBytes} bytes`, expected });
}
