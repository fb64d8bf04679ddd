// One region of a quantized file: reads its rows, one portion ahead of the arithmetic, quantizes them and writes them
// in order. Runs in a worker thread; everything that crosses the thread's border is plain data.
import assert from "node:assert/strict";
import { floatDtype } from "../core/ops/cast.ts";
import type { Block } from "../core/ops/kernels.ts";
import type { Loss } from "../core/ops/loss.ts";
import { storedTensor } from "../core/plan/adapter.ts";
import { elementBytes } from "../core/tensor.ts";
import type { RegionReceipt, WriteTicket } from "../stores/store.ts";
import type { RegionDeps } from "./merge-region.ts";
import { type Portion, shapePortions } from "./quantize-portions.ts";
import type { QuantizeTensor } from "./quantize-request.ts";
import { createRowQuantizer, interleavedRow, notFinite, shiftValues } from "./quantize-rows.ts";
import { createStoredReader, type ReaderDeps, type StoredReader } from "./stored-reader.ts";

export type QuantizeRegionTask = {
  readonly index: number;
  readonly ticket: WriteTicket;
  readonly source: string;
  readonly targetStore: string;
  /** Bytes that go before the first portion: the file's header, in the first region. */
  readonly prologue: Uint8Array;
  /** In file order; those of one tensor stand together. */
  readonly runs: readonly PortionRun[];
};

/** Portions of one tensor. */
export type PortionRun = { readonly tensor: QuantizeTensor; readonly portions: readonly Portion[] };

export type QuantizeRegionResult = {
  readonly receipt: RegionReceipt;
  /** By the region's portions, in order. */
  readonly losses: readonly { readonly tensor: number; readonly loss: Loss }[];
};

type Write = (bytes: Uint8Array) => Promise<void>;

/** Quantizes the region's portions and closes its part of the write. */
export async function quantizeRegion(task: QuantizeRegionTask, deps: RegionDeps): Promise<QuantizeRegionResult> {
  const target = deps.openStore(task.targetStore);
  const writer = await target.openRegion(task.ticket, task.index, { signal: deps.signal });
  if (task.prologue.byteLength > 0) await writer.write(task.prologue);
  const sources = [{ model: "", store: task.source, prefix: "", digests: undefined }];
  const losses: { readonly tensor: number; readonly loss: Loss }[] = [];
  for (const run of task.runs) {
    const mark = deps.kernels.mark();
    try {
      losses.push(...(await quantizeRun(run, { ...deps, sources }, (bytes) => writer.write(bytes))));
    } finally {
      deps.kernels.release(mark);
    }
  }
  return { receipt: await writer.close(), losses };
}

async function quantizeRun(
  { tensor, portions }: PortionRun,
  deps: RegionDeps & ReaderDeps,
  write: Write,
): Promise<QuantizeRegionResult["losses"]> {
  const { kernels } = deps;
  const entry = tensor.source;
  const dtype = floatDtype(entry.dtype);
  const { columns, rows, headRows, portionRows } = shapePortions(tensor);
  const bytesPerRow = elementBytes(dtype, columns);
  const stored = [kernels.allocateBlock(portionRows * bytesPerRow), kernels.allocateBlock(portionRows * bytesPerRow)];
  const values = kernels.allocateTile(columns);
  const { scheme, importance } = tensor;
  const quantizer = createRowQuantizer({ tensor: entry.name, scheme, columns, importance }, kernels);
  const quantized = kernels.allocateBlock(portionRows * quantizer.rowBytes);
  // Of a stack of experts, each has an importance of its own.
  const matrices = (importance?.length ?? columns) / columns;
  const matrixOf = (row: number): number => Math.floor((row * matrices) / rows);
  const reader = createStoredReader(storedTensor(entry, 0), deps);
  const read = (index: number) => readPortion(reader, portions[index], columns, stored[index % 2]);
  const losses: { readonly tensor: number; readonly loss: Loss }[] = [];
  let coming = read(0);
  for (const [index, portion] of portions.entries()) {
    deps.signal.throwIfAborted();
    const block = await coming;
    coming = read(index + 1);
    // A failure below must not leave this one unhandled.
    coming.catch(() => {});
    for (let row = 0; row < portion.rows; row++) {
      const from = tensor.permutedHeads === undefined ? row : interleavedRow(row, headRows);
      const nonFinite = kernels.widen(dtype, block, from * bytesPerRow, values, columns);
      if (nonFinite > 0) throw notFinite(entry.name);
      shiftValues(values, columns, tensor.shift);
      quantizer.quantize(values, 0, quantized, row * quantizer.rowBytes, matrixOf(portion.firstRow + row));
    }
    losses.push({ tensor: portion.tensor, loss: quantizer.takeLoss() });
    const bytes = quantized.bytes.subarray(0, portion.rows * quantizer.rowBytes);
    await write(bytes);
    if (portion.paddingBytes > 0) await write(new Uint8Array(portion.paddingBytes));
    deps.progress(portion.rows * bytesPerRow, bytes.length + portion.paddingBytes);
  }
  return losses;
}

/** Reads a portion to the start of a block; of no portion, nothing. */
async function readPortion(
  reader: StoredReader,
  portion: Portion | undefined,
  columns: number,
  block: Block | undefined,
): Promise<Block> {
  assert.ok(block !== undefined, "portions have two blocks");
  if (portion !== undefined) await reader.read(portion.firstRow * columns, portion.rows * columns, block);
  return block;
}
