// Elements of a tensor, as windows of a merge bring them, put together into rows of float32. Sinks that quantize rows
// use it.
import assert from "node:assert/strict";
import { isFloatDtype } from "../core/ops/cast.ts";
import type { Block, Kernels, Tile } from "../core/ops/kernels.ts";
import { type Dtype, elementBytes } from "../core/tensor.ts";
import { notFinite } from "./quantize-rows.ts";

export type CollectedRows = {
  /** In the merged checkpoint, for errors. */
  readonly name: string;
  readonly dtype: Dtype;
  readonly columns: number;
  readonly rowsAtOnce: number;
  readonly kernels: Kernels;
};

/** Gets the next `rows` rows, at the start of `values`. */
export type HandleRows = (values: Tile, rows: number) => Promise<void>;

/** Takes a tile of kernel memory for good. Throws QuantizeNotFinite from `take`, and what `handle` throws. */
export function collectRows({ name, dtype, columns, rowsAtOnce, kernels }: CollectedRows, handle: HandleRows) {
  assert.ok(isFloatDtype(dtype), "only floats are quantized");
  const values = kernels.allocateTile(rowsAtOnce * columns);
  let filled = 0;
  const flush = async (): Promise<void> => {
    if (filled === 0) return;
    await handle(values, filled / columns);
    filled = 0;
  };
  return {
    /** The next `count` elements, at the start of `block`. */
    async take(block: Block, count: number): Promise<void> {
      for (let done = 0; done < count; ) {
        const length = Math.min(count - done, rowsAtOnce * columns - filled);
        const part = { address: values.address + 4 * filled, values: values.values.subarray(filled, filled + length) };
        if (kernels.widen(dtype, block, elementBytes(dtype, done), part, length) > 0) throw notFinite(name);
        filled += length;
        done += length;
        if (filled === rowsAtOnce * columns) await flush();
      }
    },
    /** Hands over the rows of the end. */
    flush,
  };
}
