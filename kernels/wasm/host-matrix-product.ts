// The WebAssembly product of matrices of doubles; what it computes is defined in core/ops/matrix-product.ts. Called by
// host.ts.
import assert from "node:assert/strict";
import type { Doubles, MatrixProduct } from "../../core/ops/matrix-product.ts";

/** The function of kernels.wasm that this file calls; addresses and strides in bytes. */
export type MatrixProductExports = {
  readonly addMatrixProduct: (
    ...args: [
      target: number,
      targetStride: number,
      a: number,
      aStride: number,
      b: number,
      bStride: number,
      rows: number,
      inner: number,
      columns: number,
      sign: number,
    ]
  ) => void;
};

export function hostMatrixProduct(wasm: MatrixProductExports, buffer: ArrayBuffer): MatrixProduct {
  const placeOf = ({ values, stride }: Doubles): [address: number, strideBytes: number] => {
    assert.ok(values.buffer === buffer, "a matrix in the kernels' memory");
    return [values.byteOffset, 8 * stride];
  };
  return {
    addMatrixProduct: (target, a, b, { rows, inner, columns, sign }) =>
      wasm.addMatrixProduct(...placeOf(target), ...placeOf(a), ...placeOf(b), rows, inner, columns, sign),
  };
}
