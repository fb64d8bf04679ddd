// A tensor's way into a derived file while it is merged: its windows, as the merged file gets them, are collected into
// rows, quantized and written. So a quantized output has the bytes that quantizing the merged file would give, and no
// input is read twice. One is made for each output of a tensor; merge-region.ts opens the files.
import assert from "node:assert/strict";
import { createHasher } from "../core/artifact/digest.ts";
import { isFloatDtype } from "../core/ops/cast.ts";
import type { Block, Kernels } from "../core/ops/kernels.ts";
import type { Loss } from "../core/ops/quantize.ts";
import { sinkRows } from "../core/plan/memory.ts";
import type { DerivedTensor } from "../core/plan/schema.ts";
import { type Dtype, elementBytes } from "../core/tensor.ts";
import { createRowQuantizer, interleavedRow, notFinite } from "./quantize-rows.ts";

/** Where a derived tensor goes. `paddingBytes` zeros follow it, up to the next tensor or the end of the file. */
export type SinkPlace = {
  readonly tensor: DerivedTensor;
  readonly paddingBytes: number;
  /** Appends to the derived file; the bytes may be reused when it resolves. */
  readonly write: (bytes: Uint8Array) => Promise<void>;
};

export type SinkResult = {
  /** Of the tensor's bytes and the zeros behind them. */
  readonly digest: string;
  readonly loss: Loss;
};

export type QuantizedSink = {
  /** The next `count` elements of the tensor, at the start of `block`. */
  take(block: Block, count: number): Promise<void>;
  /** After the last element. */
  finish(): Promise<SinkResult>;
};

/** Takes kernel memory for good: whoever calls marks and releases. Throws QuantizeNotFinite from `take`. */
export function createQuantizedSink(place: SinkPlace, name: string, dtype: Dtype, kernels: Kernels): QuantizedSink {
  const { tensor, paddingBytes, write } = place;
  const { columns, headRows, rowsAtOnce } = sinkRows(tensor);
  assert.ok(isFloatDtype(dtype), "only floats are quantized");
  const quantizer = createRowQuantizer(
    { tensor: name, scheme: tensor.scheme, columns, importance: undefined },
    kernels,
  );
  const values = kernels.allocateTile(rowsAtOnce * columns);
  const blocks = kernels.allocateBlock(rowsAtOnce * quantizer.rowBytes);
  const hasher = createHasher();
  let [filled, signal, noise] = [0, 0, 0];
  const flush = async (): Promise<void> => {
    const rows = filled / columns;
    for (let row = 0; row < rows; row++) {
      const from = tensor.permutedHeads === undefined ? row : interleavedRow(row, headRows);
      quantizer.quantize(values, from * columns, blocks, row * quantizer.rowBytes);
    }
    const loss = quantizer.takeLoss();
    signal += loss.signal;
    noise += loss.noise;
    filled = 0;
    const bytes = blocks.bytes.subarray(0, rows * quantizer.rowBytes);
    hasher.update(bytes);
    await write(bytes);
  };
  return {
    async take(block, count) {
      for (let done = 0; done < count; ) {
        const length = Math.min(count - done, rowsAtOnce * columns - filled);
        const part = { address: values.address + 4 * filled, values: values.values.subarray(filled, filled + length) };
        if (kernels.widen(dtype, block, elementBytes(dtype, done), part, length) > 0) throw notFinite(name);
        filled += length;
        done += length;
        if (filled === rowsAtOnce * columns) await flush();
      }
    },
    async finish() {
      if (filled > 0) await flush();
      const padding = new Uint8Array(paddingBytes);
      hasher.update(padding);
      if (paddingBytes > 0) await write(padding);
      return { digest: hasher.digest(), loss: { signal, noise } };
    },
  };
}
