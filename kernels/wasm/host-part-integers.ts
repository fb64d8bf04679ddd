// Integers of 3, 4, 6 and 8 bits in windows of parts, by the kernels of kernels.wasm: core/schemes/integers.ts. Called
// by host-parts.ts.
import { viewOf } from "../../core/data-view.ts";
import { packedBytes } from "../../core/schemes/bit-stream.ts";
import type { CompressedForm } from "../../core/schemes/compressed-form.ts";
import { readZeros, writeShape, writeZeros } from "../../core/schemes/integers.ts";
import { ROUNDINGS } from "../../core/schemes/rounding.ts";
import { partOf, type RowWindow } from "../../core/schemes/scheme.ts";
import { DTYPES, type WindowKernel } from "./host-part-kernel.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes, dtypes as DTYPES has them. */
export type IntegerExports = {
  readonly scaleOfLargest: (largest: number, steps: number, dtype: number) => number;
  readonly integerZeros: () => number;
  readonly integerZerosMax: () => number;
  readonly dequantizeIntegers: (
    ...args: [
      source: number,
      count: number,
      width: number,
      scales: number,
      isShared: number,
      dtype: number,
      bits: number,
      isAffine: number,
      flip: number,
      target: number,
    ]
  ) => void;
  readonly quantizeIntegers: (
    ...args: [
      bits: number,
      isAffine: number,
      source: number,
      count: number,
      width: number,
      target: number,
      scales: number,
      shared: number,
      dtype: number,
      offset: number,
    ]
  ) => void;
};

type IntegerBits = 3 | 4 | 6 | 8;
/** Widths that there are kernels for. */
export const INTEGER_BITS: readonly IntegerBits[] = [3, 4, 6, 8];

/** Of groups whose widths are multiples of sixteen. */
export function integerKernel(
  wasm: IntegerExports,
  buffer: ArrayBuffer,
  { format, strategy, group, symmetric }: CompressedForm,
  bits: IntegerBits,
): WindowKernel {
  const form = { bits, packed: format === "pack-quantized" };
  const offset = form.packed ? 2 ** (bits - 1) : 0;
  const isShared = strategy === "tensor";
  const isAffine = symmetric ? 0 : 1;
  const place = (window: RowWindow) => {
    const { columns, dtype } = window.matrix;
    const width = group ?? columns;
    const groups = columns / width;
    const scales = partOf(window, "weight_scale");
    return {
      columns,
      width,
      groups,
      scales,
      scaleBytes: isShared ? 0 : groups * ROUNDINGS[dtype].bytes,
      codes: partOf(window, form.packed ? "weight_packed" : "weight"),
      codeBytes: form.packed ? packedBytes(columns, bits) : columns,
      usedBytes: (columns * bits) / 8,
      dtype: DTYPES[dtype],
      /** Of one row, for the kernel. */
      rowZeros: new Int8Array(buffer, wasm.integerZeros(), groups),
    };
  };
  return {
    measures: true,
    quantize(window, { largest = 0 }) {
      const { columns, width, groups, scales, scaleBytes, codes, codeBytes, usedBytes, dtype, rowZeros } =
        place(window);
      const shared = isShared ? wasm.scaleOfLargest(largest, (2 ** bits - 1) / 2, dtype) : 0;
      if (isShared) ROUNDINGS[window.matrix.dtype].write(viewOf(scales), 0, shared);
      const zeros = new Int8Array(symmetric ? 0 : window.count * groups);
      for (let row = 0; row < window.count; row++) {
        const source = window.values.byteOffset + 4 * columns * row;
        const [target, to] = [codes.byteOffset + codeBytes * row, scales.byteOffset + scaleBytes * row];
        wasm.quantizeIntegers(bits, isAffine, source, columns, width, target, to, shared, dtype, offset);
        if (usedBytes < codeBytes) codes.fill(0, codeBytes * row + usedBytes, codeBytes * (row + 1));
        if (!symmetric) zeros.set(rowZeros, groups * row);
      }
      if (!symmetric) writeZeros(form, window, zeros, groups);
      if (form.packed) writeShape(window);
    },
    dequantize(window) {
      const { columns, width, groups, scales, scaleBytes, codes, codeBytes, dtype, rowZeros } = place(window);
      const zeros = symmetric ? undefined : readZeros(form, window, groups);
      const [isSame, flip] = [isShared ? 1 : 0, form.packed ? 0 : 0x80];
      for (let row = 0; row < window.count; row++) {
        const target = window.values.byteOffset + 4 * columns * row;
        const [source, from] = [codes.byteOffset + codeBytes * row, scales.byteOffset + scaleBytes * row];
        if (zeros !== undefined) rowZeros.set(zeros.subarray(groups * row, groups * (row + 1)));
        wasm.dequantizeIntegers(source, columns, width, from, isSame, dtype, bits, isAffine, flip, target);
      }
    },
  };
}
