// A tensor's way into a file of parts while it is merged: rows become windows of a scheme's parts. The first part, the
// large one, is written as it comes where it goes along with the rows; all else waits for the last row, but what the
// shape alone says: that is written with the header (derived-files.ts). Tensors that stay as they are pass as bytes.
// Made by create-sink.ts.
import assert from "node:assert/strict";
import { createHasher, digestBytes } from "../core/artifact/digest.ts";
import type { Kernels } from "../core/ops/kernels.ts";
import { sinkMatrix } from "../core/plan/memory.ts";
import type { DerivedModule } from "../core/plan/schema.ts";
import { allocateParts, type PartBytes } from "../core/schemes/part-matrix.ts";
import { partRange } from "../core/schemes/scheme.ts";
import { type Dtype, elementBytes } from "../core/tensor.ts";
import { collectRows } from "./collect-rows.ts";
import { createPartsQuantizer } from "./parts-quantizer.ts";
import type { Sink, SinkPlace } from "./sink.ts";

/** Takes kernel memory for good: whoever calls marks and releases. Throws QuantizeNotFinite from `take`. */
export function createPartsSink(
  { tensor, paddingBytes, write, largest, hessian }: SinkPlace<DerivedModule>,
  name: string,
  dtype: Dtype,
  kernels: Kernels,
): Sink {
  const made = sinkMatrix(tensor);
  assert.ok(made !== undefined && paddingBytes === 0, "parts fill their file, and have a scheme");
  const { scheme, matrix, parts, rowsAtOnce } = made;
  const streamed = parts[0]?.along === undefined ? undefined : parts[0];
  const kept = allocateParts(made.kept);
  const facts = { largest, hessian };
  const quantizer = createPartsQuantizer({ tensor: name, scheme, matrix, parts, facts, rows: rowsAtOnce }, kernels);
  const hasher = createHasher();
  let first = 0;
  let last: PartBytes = new Map();
  const collected = { name, dtype, columns: matrix.columns, rowsAtOnce, kernels };
  const rows = collectRows(collected, async (tile, count) => {
    const own = quantizer.quantize(tile, first, count);
    for (const part of made.kept) {
      kept.get(part.name)?.set(own.get(part.name) ?? [], partRange(part, first, count).offset);
    }
    first += count;
    last = own;
    const bytes = streamed && own.get(streamed.name);
    if (bytes === undefined) return;
    hasher.update(bytes);
    await write(bytes);
  });
  return {
    take: rows.take,
    async finish() {
      await rows.flush();
      const digests: string[] = [];
      for (const part of parts) {
        if (part.known !== undefined) continue;
        // What belongs to the tensor as a whole is complete with the last window.
        const bytes = kept.get(part.name) ?? last.get(part.name) ?? new Uint8Array(0);
        digests.push(part === streamed ? hasher.digest() : digestBytes(bytes));
        if (part !== streamed) await write(bytes);
      }
      return { digests, loss: quantizer.loss() };
    },
  };
}

/** A tensor that stays as it is. */
export function createCopySink({ write }: SinkPlace<DerivedModule>, dtype: Dtype): Sink {
  const hasher = createHasher();
  return {
    async take(block, count) {
      const bytes = block.bytes.subarray(0, elementBytes(dtype, count));
      hasher.update(bytes);
      await write(bytes);
    },
    async finish() {
      return { digests: [hasher.digest()], loss: undefined };
    },
  };
}
