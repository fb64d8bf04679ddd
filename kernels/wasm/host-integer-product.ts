// The WebAssembly products of 16-bit integers; what they compute is defined in core/ops/integer-product.ts. Called by
// host.ts.
import assert from "node:assert/strict";
import type { IntegerProduct } from "../../core/ops/integer-product.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type IntegerProductExports = {
  readonly integerProduct: (
    ...args: [target: number, a: number, b: number, rows: number, columns: number, depth: number]
  ) => void;
  readonly roundToIntegers: (target: number, source: number, factor: number, count: number) => void;
};

export function hostIntegerProduct(wasm: IntegerProductExports, buffer: ArrayBuffer): IntegerProduct {
  const addressOf = (values: Int32Array | Int16Array | Float32Array): number => {
    assert.ok(values.buffer === buffer, "a matrix in the kernels' memory");
    return values.byteOffset;
  };
  return {
    integerProduct: (target, a, b, { rows, columns, depth }) =>
      wasm.integerProduct(addressOf(target), addressOf(a), addressOf(b), rows, columns, depth),
    roundToIntegers: (target, source, factor) =>
      wasm.roundToIntegers(addressOf(target), addressOf(source), factor, source.length),
  };
}
