// One region of a shard of quantized parts: tensors copied or made, written in the order of the file. And what schemes
// measure before: the largest magnitude of a set of tensors. Runs in a worker thread; everything that crosses the
// thread's border is plain data.
import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { TensorEntry } from "../core/checkpoint.ts";
import type { CompressedMatrix, CopiedTensor } from "../core/plan/compressed-model.ts";
import type { PartBytes } from "../core/schemes/part-matrix.ts";
import { knownFolderScheme } from "../core/schemes/registry.ts";
import type { RegionReceipt, WriteTicket } from "../stores/store.ts";
import type { RegionDeps } from "./merge-region.ts";
import type { PlacedPart } from "./parts-regions.ts";
import type { Hessians, PartsLoss } from "./parts-request.ts";
import {
  createRowReader,
  elementPieces,
  measuredRows,
  measureLargest,
  type ReadRows,
  type SourceDeps,
  streamPart,
  windowRows,
} from "./quantize-parts.ts";
import { readHessian } from "./read-hessian.ts";

/** Bytes of a copied tensor in memory at a time; as many as a core's cache holds where the thread itself reads them. */
const COPY_BYTES = 8 * 2 ** 20;
const CACHED_COPY_BYTES = 256 * 1024;
/** Bytes written between turns of the event loop, for a thread that blocks. */
const TURN_BYTES = 8 * 2 ** 20;

export type PartsRegionTask = {
  readonly index: number;
  readonly ticket: WriteTicket;
  readonly source: string;
  readonly target: string;
  /** Bytes that go before the first tensor: the shard's header, in the first region. */
  readonly prologue: Uint8Array;
  readonly tensors: readonly PlacedPart[];
  /** Parts that other regions of the shard made, by the name of the tensor they become. */
  readonly made: PartBytes;
  /** max|x| by the name of the first tensor of a fused set; empty for schemes that measure nothing. */
  readonly largest: ReadonlyMap<string, number>;
  readonly hessians: Hessians | undefined;
};

export type PartsRegionResult = {
  readonly receipt: RegionReceipt;
  readonly losses: readonly PartsLoss[];
  /** Parts of the region's units that lie in another region. */
  readonly made: PartBytes;
};

export type LargestTask = { readonly source: string; readonly tensors: readonly TensorEntry[] };

type Work = PartsRegionTask & {
  readonly deps: RegionDeps;
  readonly mayBlock: boolean;
  /** Parts whose turn in the file comes later, by the name of the tensor they become. */
  readonly kept: Map<string, Uint8Array>;
  readonly losses: Map<string, PartsLoss>;
};

/** Makes the region's tensors and closes its part of the write. Throws QuantizeNotFinite and what the stores throw. */
export async function writeParts(task: PartsRegionTask, deps: RegionDeps): Promise<PartsRegionResult> {
  const { kernels } = deps;
  const target = deps.openStore(task.target);
  const mayBlock = deps.openStore(task.source).isLocal && target.isLocal;
  const work: Work = { ...task, deps, mayBlock, kept: new Map(task.made), losses: new Map() };
  const writer = await target.openRegion(task.ticket, task.index, { signal: deps.signal, mayBlock });
  if (task.prologue.byteLength > 0) await writer.write(task.prologue);
  let sinceTurn = 0;
  for (const { name, bytes, unit } of task.tensors) {
    const mark = kernels.mark();
    let written = 0;
    try {
      for await (const piece of unit.kind === "copy" ? copyPieces(work, unit) : partPieces(work, unit, name)) {
        await writer.write(piece);
        written += piece.length;
        deps.progress(0, piece.length);
        sinceTurn += piece.length;
        if (sinceTurn < TURN_BYTES) continue;
        await nextTurn();
        sinceTurn = 0;
      }
    } finally {
      kernels.release(mark);
    }
    assert.equal(written, bytes, "a tensor has the bytes that the header says");
  }
  return { receipt: await writer.close(), losses: [...work.losses.values()], made: work.kept };
}

/** max|x| of all the tensors together. Throws QuantizeNotFinite and what the store throws. */
export async function measureLargestOf({ source, tensors }: LargestTask, deps: RegionDeps): Promise<number> {
  let largest = 0;
  for (const entry of tensors) {
    const [rows = 0, columns = 0] = entry.shape;
    const matrix = { rows, columns, dtype: "F32" } as const;
    const mark = deps.kernels.mark();
    try {
      const mayBlock = deps.openStore(source).isLocal;
      const read = readerOf(entry, columns, measuredRows(matrix), { ...deps, source, mayBlock });
      largest = Math.max(largest, await measureLargest(read, matrix));
    } finally {
      deps.kernels.release(mark);
    }
  }
  return largest;
}

async function* copyPieces({ source, deps, mayBlock }: Work, { entry }: CopiedTensor): AsyncGenerator<Uint8Array> {
  if (entry.packing !== undefined) {
    for await (const piece of elementPieces(entry, { ...deps, source, mayBlock })) yield piece;
    deps.progress(storedBytes(entry), 0);
    return;
  }
  const { signal } = deps;
  const store = deps.openStore(source);
  for (const { file, offset, bytes } of entry.ranges) {
    const buffer = new Uint8Array(Math.min(mayBlock ? CACHED_COPY_BYTES : COPY_BYTES, bytes));
    for (let at = 0; at < bytes; at += buffer.length) {
      signal.throwIfAborted();
      const piece = buffer.subarray(0, Math.min(buffer.length, bytes - at));
      await store.readInto(file, offset + at, piece, { signal, mayBlock });
      deps.progress(piece.length, 0);
      yield piece;
    }
  }
}

/** A part from those kept, or by passing the rows of its matrix. */
async function* partPieces(work: Work, unit: CompressedMatrix, name: string): AsyncGenerator<Uint8Array> {
  const kept = work.kept.get(name);
  if (kept !== undefined) {
    work.kept.delete(name);
    yield kept;
    return;
  }
  const { deps } = work;
  const { entry, module, matrix, parts, fused } = unit;
  const scheme = knownFolderScheme(unit.scheme);
  const { kernels } = deps;
  const facts = { largest: work.largest.get(fused[0]?.name ?? ""), hessian: await hessianOf(work, entry) };
  const read = readerOf(entry, matrix.columns, windowRows(scheme, matrix), {
    ...deps,
    source: work.source,
    mayBlock: work.mayBlock,
  });
  const input = { scheme, matrix, parts, read, facts, kernels, tensor: entry.name };
  const result = yield* streamPart(input, name.slice(module.length + 1));
  // A part that was too large to be kept is made by another pass, which finds the others made already.
  if (work.losses.has(entry.name)) return;
  const { loss } = result;
  work.losses.set(entry.name, { tensor: entry.name, loss, quantizer: kernels.partsQuantizerOf(scheme, matrix) });
  for (const [part, bytes] of result.parts) work.kept.set(`${module}.${part}`, bytes);
}

/** The matrix's Hessian; undefined where there are none. */
async function hessianOf({ hessians, deps }: Work, { name }: TensorEntry): Promise<Float32Array | undefined> {
  const entry = hessians?.entries[name];
  return hessians === undefined || entry === undefined ? undefined : readHessian(hessians, entry, deps);
}

function readerOf(entry: TensorEntry, columns: number, rows: number, deps: SourceDeps & RegionDeps): ReadRows {
  const read = createRowReader(entry, columns, rows, deps);
  const rowBytes = (storedBytes(entry) * columns) / entry.shape.reduce((product, axis) => product * axis, 1);
  return async (first, taken) => {
    const values = await read(first, taken);
    deps.progress(taken * rowBytes, 0);
    return values;
  };
}

function storedBytes({ ranges }: TensorEntry): number {
  return ranges.reduce((sum, { bytes }) => sum + bytes, 0);
}
