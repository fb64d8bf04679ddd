// Follows gathers: streams the bytes of consolidated tensors, one after the other, from ranges of many files. Nothing
// is staged anywhere: windows of the output are filled by ranged reads and given away, whatever the size of the
// tensors.
import assert from "node:assert/strict";
import type { Box, Gather, Packing } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { isFloatDtype, scalarCast } from "../core/ops/cast.ts";
import { type Dtype, elementBytes, elementCount, type Shape } from "../core/tensor.ts";
import { measureRuns, runAt, type SourceRange, sliceRanges, type TensorRange } from "../core/universal/box.ts";
import type { ObjectStore } from "../stores/store.ts";

export type GatherTensor = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly gather: Gather<SourceRange>;
};
/** The folder that ranges name files of. With `mayBlock` a local store reads within the call. */
export type GatherSource = {
  readonly store: ObjectStore;
  readonly prefix: string;
  readonly model?: string | undefined;
  readonly mayBlock?: boolean | undefined;
};

/** Bytes of one window of the output that is read ahead. Two are held. It never changes a result. */
const WINDOW_BYTES = 8 * 1024 * 1024;
/**
 * Bytes of one window that the thread itself reads when it is asked for: few enough to stay in the processor's cache
 * until they are digested and written. At a quarter of them, what is done for each window takes a tenth of the time; at
 * twice as many, Linux writes into pages of 2 MiB, which costs a fifth more.
 */
const CACHED_WINDOW_BYTES = 1024 * 1024;
/** Bytes that one read of scattered runs may span, used and unused ones together. */
const SPAN_BYTES = 8 * 1024 * 1024;
/** Runs of at least this many bytes are read where they go; shorter ones are read together and scattered. */
const DIRECT_BYTES = 64 * 1024;
/** Elements that are converted to another dtype at a time. */
const CONVERTED_ELEMENTS = 1024 * 1024;

/** Most memory that one stream of gathered tensors holds: two windows, one copy to compare with, and one span. */
export const GATHER_PEAK_BYTES = 3 * WINDOW_BYTES + SPAN_BYTES;

/** A run of bytes of one tensor inside a window. */
type Part = { readonly tensor: GatherTensor; readonly first: number; readonly count: number; readonly offset: number };

/**
 * The bytes of the tensors in order, in windows; a window is valid until the next is asked for. One is read ahead,
 * unless reading may block the thread.
 * Throws UniversalReplicasDisagree where copies that must be equal differ, and what the store throws.
 */
export async function* gatherPieces(
  source: GatherSource,
  tensors: readonly GatherTensor[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { mayBlock = false } = source;
  const windowBytes = mayBlock ? CACHED_WINDOW_BYTES : WINDOW_BYTES;
  const largest = Math.min(
    windowBytes,
    tensors.reduce((sum, { dtype, shape }) => sum + elementBytes(dtype, elementCount(shape)), 0),
  );
  const buffers = [takeWindow(largest), takeWindow(largest)];
  const fill = async ({ parts, bytes }: Window, turn: number): Promise<Uint8Array> => {
    const window = (buffers[turn % 2] ?? new Uint8Array(0)).subarray(0, bytes);
    for (const { tensor, first, count, offset } of parts) {
      const into = window.subarray(offset, offset + elementBytes(tensor.dtype, count));
      await fillTensor(source, tensor, first, into, signal);
    }
    return window;
  };
  let turn = 0;
  let ahead: Promise<Uint8Array> | undefined;
  for (const window of windowsOf(tensors, windowBytes)) {
    if (mayBlock) {
      yield await fill(window, 0);
      signal.throwIfAborted();
      continue;
    }
    const next = fill(window, turn);
    next.catch(() => undefined); // awaited in the next turn, or dropped when the reader stops before
    turn += 1;
    if (ahead !== undefined) {
      yield await ahead;
      signal.throwIfAborted();
    }
    ahead = next;
  }
  if (ahead !== undefined) yield await ahead;
  // Not when the reader stops before: a read ahead may still go on.
  for (const buffer of buffers) if (buffer.length === WINDOW_BYTES && idle.length < 2) idle.push(buffer);
}

/** Windows of streams that ended, for the next one of this thread: fresh memory costs as much as copying it. */
const idle: Uint8Array[] = [];

function takeWindow(bytes: number): Uint8Array {
  return (bytes === WINDOW_BYTES ? idle.pop() : undefined) ?? new Uint8Array(bytes);
}

type Window = { readonly parts: readonly Part[]; readonly bytes: number };

function* windowsOf(tensors: readonly GatherTensor[], windowBytes: number): Generator<Window> {
  let [parts, bytes]: [Part[], number] = [[], 0];
  for (const tensor of tensors) {
    const unit = elementBytes(tensor.dtype, 1);
    const total = elementCount(tensor.shape);
    for (let first = 0; first < total; ) {
      const count = Math.min(total - first, Math.floor((windowBytes - bytes) / unit));
      if (count > 0) parts.push({ tensor, first, count, offset: bytes });
      bytes += count * unit;
      first += count;
      if (windowBytes - bytes >= 16) continue;
      yield { parts, bytes };
      [parts, bytes] = [[], 0];
    }
  }
  if (parts.length > 0) yield { parts, bytes };
}

/** Elements of the tensor from `first` on, as many as fill `into`. */
async function fillTensor(
  source: GatherSource,
  tensor: GatherTensor,
  first: number,
  into: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const { packing } = tensor.gather;
  const count = into.length / elementBytes(tensor.dtype, 1);
  if (packing !== undefined) return fillPacked(source, tensor, packing, { first, count, into }, signal);
  const [boxes = [], ...others] = tensor.gather.copies;
  await fillCopy(source, tensor, boxes, first, into, signal);
  if (tensor.gather.rule === "join") return;
  const copy = new Uint8Array(into.length);
  const sum = tensor.gather.rule === "mean" ? Float32Array.from(floatsOf(into), (value) => 0 + value) : undefined;
  for (const other of others) {
    await fillCopy(source, tensor, other, first, copy, signal);
    if (sum !== undefined) addTo(sum, floatsOf(copy));
    else if (Buffer.compare(copy, into) !== 0) throw disagree(source, tensor, first, into, copy);
  }
  if (sum === undefined) return;
  const copies = tensor.gather.copies.length;
  into.set(new Uint8Array(sum.map((value) => value / copies).buffer));
}

type Span = { readonly first: number; readonly count: number; readonly into: Uint8Array };

/** Values that lie packed in the ranges of the only box. */
async function fillPacked(
  source: GatherSource,
  tensor: GatherTensor,
  packing: Packing,
  { first, count, into }: Span,
  signal: AbortSignal,
): Promise<void> {
  const ranges = tensor.gather.copies[0]?.[0]?.ranges ?? [];
  const stored = (offset: number, target: Uint8Array) =>
    runReads(source, readsOf(tensor.name, ranges, offset, target), signal);
  // With every scheme's code, for the few checkpoints that need it.
  const { createPackedReader } = await import("./packed-reader.ts");
  const read = createPackedReader(tensor, packing, stored, (bytes) => new Uint8Array(bytes));
  if (into.byteOffset % 4 === 0) return read(first, count, into);
  const aligned = new Uint8Array(into.length);
  await read(first, count, aligned);
  into.set(aligned);
}

/** The float32 values of bytes that may lie anywhere. */
function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}

function addTo(sum: Float32Array, values: Float32Array): void {
  for (let index = 0; index < sum.length; index += 1) sum[index] = (sum[index] ?? 0) + (values[index] ?? 0);
}

function disagree(
  source: GatherSource,
  tensor: GatherTensor,
  first: number,
  a: Uint8Array,
  b: Uint8Array,
): MergeyardError {
  const at = a.findIndex((byte, index) => byte !== b[index]);
  const element = first + Math.floor(at / elementBytes(tensor.dtype, 1));
  return new MergeyardError("UniversalReplicasDisagree", {
    where: { store: source.store.uri, file: source.prefix || undefined, model: source.model, tensor: tensor.name },
    found: `ranks that differ at element ${element}`,
    expected: "the same bytes on every rank",
  });
}

/** Elements of the tensor from `first` on, from the boxes of one copy. */
async function fillCopy(
  source: GatherSource,
  { name, shape, dtype }: GatherTensor,
  boxes: readonly Box<SourceRange>[],
  first: number,
  into: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const unit = elementBytes(dtype, 1);
  const end = first + into.length / unit;
  const reads: Read[] = [];
  const scatters: Scatter[] = [];
  let filled = 0;
  for (const box of boxes) {
    const clipped = clipRuns(box, shape, first, end);
    filled += clipped.reduce((sum, run) => sum + run.count, 0);
    const isDirect = measureRuns(box, shape).count * unit >= DIRECT_BYTES || clipped.length === 1;
    if (isDirect) {
      for (const { source: from, target, count } of clipped) {
        const place = into.subarray((target - first) * unit, (target - first + count) * unit);
        reads.push(...readsOf(name, box.ranges, from * unit, place));
      }
    } else {
      scatters.push(...spansOf(box, clipped, unit));
    }
  }
  assert.equal(filled, end - first, `the boxes of ${name} tile it`);
  await runReads(source, reads, signal);
  for (const { box, runs, from, bytes } of scatters) {
    const span = new Uint8Array(bytes);
    await runReads(source, readsOf(name, box.ranges, from, span), signal);
    for (const run of runs) {
      const start = run.source * unit - from;
      into.set(span.subarray(start, start + run.count * unit), (run.target - first) * unit);
    }
  }
}

type ClippedRun = { readonly target: number; readonly source: number; readonly count: number };

/** The runs of a box that meet [first, end), cut to it. Runs rise, so the first is found by halving. */
function clipRuns(box: Box<SourceRange>, shape: Shape, first: number, end: number): readonly ClippedRun[] {
  const { runs, count } = measureRuns(box, shape);
  if (count === 0) return [];
  let [low, high] = [0, runs];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (runAt(box, shape, middle).target + count <= first) low = middle + 1;
    else high = middle;
  }
  const clipped: ClippedRun[] = [];
  for (let index = low; index < runs; index += 1) {
    const { target, source } = runAt(box, shape, index);
    if (target >= end) break;
    const skip = Math.max(0, first - target);
    clipped.push({
      target: target + skip,
      source: source + skip,
      count: Math.min(target + count, end) - target - skip,
    });
  }
  return clipped;
}

type Scatter = {
  readonly box: Box<SourceRange>;
  readonly runs: readonly ClippedRun[];
  readonly from: number;
  readonly bytes: number;
};

/** Groups of runs that one read spans. */
function spansOf(box: Box<SourceRange>, runs: readonly ClippedRun[], unit: number): readonly Scatter[] {
  const spans: Scatter[] = [];
  let group: ClippedRun[] = [];
  const close = (): void => {
    const [head, last] = [group[0], group.at(-1)];
    if (head === undefined || last === undefined) return;
    const from = head.source * unit;
    spans.push({ box, runs: group, from, bytes: (last.source + last.count) * unit - from });
    group = [];
  };
  for (const run of runs) {
    if (group[0] !== undefined && (run.source + run.count - group[0].source) * unit > SPAN_BYTES) close();
    group.push(run);
  }
  close();
  return spans;
}

type Read = { readonly name: string; readonly range: SourceRange; readonly into: Uint8Array };

function readsOf(name: string, ranges: readonly SourceRange[], offset: number, into: Uint8Array): readonly Read[] {
  let done = 0;
  return sliceRanges(ranges, offset, into.length).map((range) => {
    const place = into.subarray(done, done + range.bytes);
    done += range.bytes;
    return { name, range, into: place };
  });
}

async function runReads(source: GatherSource, reads: readonly Read[], signal: AbortSignal): Promise<void> {
  if (source.mayBlock === true || reads.length < 2) {
    for (const read of reads) await runRead(source, read, signal);
    return;
  }
  await mapBounded(reads, (read) => runRead(source, read, signal));
}

async function runRead(source: GatherSource, { name, range, into }: Read, signal: AbortSignal): Promise<void> {
  if ("file" in range) {
    const { store, prefix, mayBlock } = source;
    await store.readInto(`${prefix}${range.file}`, range.offset, into, { signal, mayBlock });
  } else if ("zeros" in range) {
    into.fill(0);
  } else if ("literal" in range) {
    into.set(range.literal.subarray(range.offset, range.offset + range.bytes));
  } else if (range.as === range.tensor.dtype) {
    await fillTensor(source, { name, ...range.tensor }, range.offset / elementBytes(range.as, 1), into, signal);
  } else {
    await fillConverted(source, { name, ...range.tensor }, range, into, signal);
  }
}

/** Elements of `range` in its dtype, by float32: exact from narrower floats, rounded once to narrower ones. */
async function fillConverted(
  source: GatherSource,
  tensor: GatherTensor,
  { as, offset }: TensorRange,
  into: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const { dtype } = tensor;
  assert.ok(isFloatDtype(dtype) && isFloatDtype(as), "only floats are planned to be converted");
  const [first, total] = [offset / elementBytes(as, 1), into.length / elementBytes(as, 1)];
  const count = Math.min(total, CONVERTED_ELEMENTS);
  const values = new Float32Array(count);
  // What is float32 already is read where it is needed.
  const stored = dtype === "F32" ? new Uint8Array(values.buffer) : new Uint8Array(elementBytes(dtype, count));
  const narrowed = new Uint8Array(elementBytes(as, count));
  for (let done = 0; done < total; done += count) {
    const now = Math.min(count, total - done);
    await fillTensor(source, tensor, first + done, stored.subarray(0, elementBytes(dtype, now)), signal);
    if (dtype !== "F32") scalarCast.widen(dtype, { address: 0, bytes: stored }, 0, { address: 0, values }, now);
    scalarCast.narrow(as, { address: 0, values }, { address: 0, bytes: narrowed }, 0, now);
    into.set(narrowed.subarray(0, elementBytes(as, now)), elementBytes(as, done));
  }
}
