// A tensor's way into a GGUF file while it is merged: its windows, as the merged file gets them, are collected into
// rows, quantized and written. So a quantized output has the bytes that quantizing the merged file would give, and no
// input is read twice. Made by create-sink.ts.
import { createHasher } from "../core/artifact/digest.ts";
import type { Kernels } from "../core/ops/kernels.ts";
import { addLoss, NO_LOSS } from "../core/ops/loss.ts";
import { sinkRows } from "../core/plan/memory.ts";
import type { DerivedTensor } from "../core/plan/schema.ts";
import type { Dtype } from "../core/tensor.ts";
import { collectRows } from "./collect-rows.ts";
import { createRowQuantizer, interleavedRow, shiftValues } from "./quantize-rows.ts";
import type { Sink, SinkPlace } from "./sink.ts";

/** Takes kernel memory for good: whoever calls marks and releases. Throws QuantizeNotFinite from `take`. */
export function createQuantizedSink(
  { tensor, paddingBytes, write, importance }: SinkPlace<DerivedTensor>,
  name: string,
  dtype: Dtype,
  kernels: Kernels,
): Sink {
  const { columns, headRows, rowsAtOnce } = sinkRows(tensor);
  const quantizer = createRowQuantizer({ tensor: name, scheme: tensor.scheme, columns, importance }, kernels);
  const blocks = kernels.allocateBlock(rowsAtOnce * quantizer.rowBytes);
  const hasher = createHasher();
  let loss = NO_LOSS;
  const rows = collectRows({ name, dtype, columns, rowsAtOnce, kernels }, async (values, count) => {
    shiftValues(values, count * columns, tensor.shift);
    for (let row = 0; row < count; row++) {
      const from = tensor.permutedHeads === undefined ? row : interleavedRow(row, headRows);
      quantizer.quantize(values, from * columns, blocks, row * quantizer.rowBytes, 0);
    }
    loss = addLoss(loss, quantizer.takeLoss());
    const bytes = blocks.bytes.subarray(0, count * quantizer.rowBytes);
    hasher.update(bytes);
    await write(bytes);
  });
  return {
    take: rows.take,
    async finish() {
      await rows.flush();
      const padding = new Uint8Array(paddingBytes);
      hasher.update(padding);
      if (paddingBytes > 0) await write(padding);
      return { digests: [hasher.digest()], loss };
    },
  };
}
