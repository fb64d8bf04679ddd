// A tensor's way into a compressed-tensors file while it is merged: rows become windows of a scheme's parts. The first
// part, the large one, is written as it comes; the others wait for the last row. Tensors that stay as they are pass as
// bytes. Made by sink.ts.
import assert from "node:assert/strict";
import { createHasher, digestBytes } from "../core/artifact/digest.ts";
import type { Kernels } from "../core/ops/kernels.ts";
import { sinkMatrix } from "../core/plan/memory.ts";
import type { DerivedModule } from "../core/plan/schema.ts";
import { allocateParts } from "../core/schemes/part-matrix.ts";
import { partRange } from "../core/schemes/scheme.ts";
import { type Dtype, elementBytes } from "../core/tensor.ts";
import { collectRows } from "./collect-rows.ts";
import { createPartsQuantizer } from "./parts-quantizer.ts";
import type { Sink, SinkPlace } from "./sink.ts";

/** Takes kernel memory for good: whoever calls marks and releases. Throws QuantizeNotFinite from `take`. */
export function createPartsSink(
  { tensor, paddingBytes, write }: SinkPlace<DerivedModule>,
  name: string,
  dtype: Dtype,
  kernels: Kernels,
): Sink {
  const made = sinkMatrix(tensor);
  assert.ok(made !== undefined && paddingBytes === 0, "parts fill their file, and have a scheme");
  const { scheme, matrix, parts, rowsAtOnce } = made;
  const [streamed, ...others] = parts;
  assert.ok(streamed?.along !== undefined, "the first part goes along with the rows");
  const kept = allocateParts(others);
  const quantizer = createPartsQuantizer({ tensor: name, scheme, matrix, parts, facts: {}, rows: rowsAtOnce }, kernels);
  const hasher = createHasher();
  let first = 0;
  const collected = { name, dtype, columns: matrix.columns, rowsAtOnce, kernels };
  const rows = collectRows(collected, async (tile, count) => {
    const own = quantizer.quantize(tile, first, count);
    for (const part of others) {
      kept.get(part.name)?.set(own.get(part.name) ?? [], partRange(part, first, count).offset);
    }
    first += count;
    const bytes = own.get(streamed.name) ?? new Uint8Array(0);
    hasher.update(bytes);
    await write(bytes);
  });
  return {
    take: rows.take,
    async finish() {
      await rows.flush();
      for (const bytes of kept.values()) await write(bytes);
      const digests = [hasher.digest(), ...[...kept.values()].map((bytes) => digestBytes(bytes))];
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
