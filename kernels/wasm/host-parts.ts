// The WebAssembly operations on windows of quantized parts: integers of 3, 4, 6 and 8 bits, and E4M3. What they compute
// is defined in core/schemes; this turns rows into addresses. Other schemes, and rows whose groups are no multiple of
// sixteen columns, go through the oracle.
import assert from "node:assert/strict";
import type { QuantizeParts } from "../../core/ops/quantize-parts.ts";
import { packedBytes } from "../../core/schemes/bit-stream.ts";
import type { CompressedForm } from "../../core/schemes/compressed-form.ts";
import { readZeros, writeShape, writeZeros } from "../../core/schemes/integers.ts";
import { ROUNDINGS, viewOf } from "../../core/schemes/rounding.ts";
import {
  type Matrix,
  partOf,
  type RowWindow,
  type ScaleDtype,
  type StoredScheme,
  type TensorFacts,
} from "../../core/schemes/scheme.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes, dtypes as DTYPES has them. */
export type PartExports = {
  readonly beginPartsLoss: () => number;
  readonly largestMagnitude: (...args: BlockOf) => number;
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
  readonly encodeE4M3: (...args: [...BlockOf, scale: number, target: number, dtype: number]) => void;
  readonly decodeE4M3: (...args: [...BlockOf, scale: number, target: number]) => void;
} & {
  readonly [name in `quantize${"Integers" | "Affine"}${IntegerBits}`]: (...args: QuantizeIntegers) => void;
};

/** Dtypes of weights as the kernels number them. */
const DTYPES: Readonly<Record<ScaleDtype, number>> = { F32: 0, BF16: 1, F16: 2 };

type IntegerBits = 3 | 4 | 6 | 8;
const INTEGER_BITS: readonly IntegerBits[] = [3, 4, 6, 8];

/** `count` values in each of `rows` rows, which are `stride` values apart. */
type BlockOf = [source: number, count: number, rows: number, stride: number];

type QuantizeIntegers = [
  source: number,
  count: number,
  width: number,
  target: number,
  scales: number,
  shared: number,
  dtype: number,
  offset: number,
];

/** SIMD code for the matrices of one form. */
type WindowKernel = {
  quantize(window: RowWindow, facts: TensorFacts): void;
  dequantize(window: RowWindow): void;
};

const GROUP_ELEMENTS = 16;
/** Largest value of E4M3. */
const E4M3_LARGEST = 448;

/** Operations on windows over an instance and its memory. */
export function hostParts(wasm: PartExports, buffer: ArrayBuffer): QuantizeParts {
  return {
    partsQuantizerOf: (scheme, matrix) => (kernelOf(wasm, buffer, scheme, matrix) === undefined ? "scalar" : "wasm"),
    quantizeParts(scheme, window, facts) {
      checkPlace(window, buffer);
      const kernel = kernelOf(wasm, buffer, scheme, window.matrix);
      if (kernel === undefined) {
        scheme.quantize(window, facts);
        return undefined;
      }
      const sums = new Float64Array(buffer, wasm.beginPartsLoss(), 4);
      kernel.quantize(window, facts);
      const [signal = 0, noise = 0, largest = 0, clipped = 0] = sums;
      return { elements: window.values.length, signal, noise, largest, clipped };
    },
    dequantizeParts(scheme, window) {
      checkPlace(window, buffer);
      const kernel = kernelOf(wasm, buffer, scheme, window.matrix);
      if (kernel === undefined || window.parts.has("weight_g_idx")) scheme.dequantize(window);
      else kernel.dequantize(window);
    },
  };
}

/** Addresses are offsets of views. */
function checkPlace({ values, parts }: RowWindow, buffer: ArrayBuffer): void {
  assert.ok(values.buffer === buffer, "values lie in the kernel set's memory");
  for (const bytes of parts.values()) assert.ok(bytes.buffer === buffer, "parts lie in the kernel set's memory");
}

function kernelOf(
  wasm: PartExports,
  buffer: ArrayBuffer,
  { form }: StoredScheme,
  { columns }: Matrix,
): WindowKernel | undefined {
  if (form?.container !== "compressed-tensors") return undefined;
  const width = form.group ?? form.block?.[1] ?? columns;
  if (columns % GROUP_ELEMENTS !== 0 || width % GROUP_ELEMENTS !== 0) return undefined;
  if (form.format === "float-quantized") return float8Kernel(wasm, form);
  if (form.format !== "pack-quantized" && form.format !== "int-quantized") return undefined;
  const bits = INTEGER_BITS.find((each) => each === form.bits);
  if (bits === undefined || (!form.symmetric && columns / width > wasm.integerZerosMax())) return undefined;
  return integerKernel(wasm, buffer, form, bits);
}

function integerKernel(
  wasm: PartExports,
  buffer: ArrayBuffer,
  { format, strategy, group, symmetric }: CompressedForm,
  bits: IntegerBits,
): WindowKernel {
  const form = { bits, packed: format === "pack-quantized" };
  const offset = form.packed ? 2 ** (bits - 1) : 0;
  const isShared = strategy === "tensor";
  const quantizeRow = symmetric ? wasm[`quantizeIntegers${bits}`] : wasm[`quantizeAffine${bits}`];
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
    quantize(window, { largest = 0 }) {
      const { columns, width, groups, scales, scaleBytes, codes, codeBytes, usedBytes, dtype, rowZeros } =
        place(window);
      const shared = isShared ? wasm.scaleOfLargest(largest, (2 ** bits - 1) / 2, dtype) : 0;
      if (isShared) ROUNDINGS[window.matrix.dtype].write(viewOf(scales), 0, shared);
      const zeros = new Int8Array(symmetric ? 0 : window.count * groups);
      for (let row = 0; row < window.count; row++) {
        const source = window.values.byteOffset + 4 * columns * row;
        const [target, to] = [codes.byteOffset + codeBytes * row, scales.byteOffset + scaleBytes * row];
        quantizeRow(source, columns, width, target, to, shared, dtype, offset);
        if (usedBytes < codeBytes) codes.fill(0, codeBytes * row + usedBytes, codeBytes * (row + 1));
        if (!symmetric) zeros.set(rowZeros, groups * row);
      }
      if (!symmetric) writeZeros(form, window, zeros, groups);
      if (form.packed) writeShape(window);
    },
    dequantize(window) {
      const { columns, width, groups, scales, scaleBytes, codes, codeBytes, dtype, rowZeros } = place(window);
      const zeros = symmetric ? undefined : readZeros(form, window, groups);
      const [isSame, isAffine, flip] = [isShared ? 1 : 0, symmetric ? 0 : 1, form.packed ? 0 : 0x80];
      for (let row = 0; row < window.count; row++) {
        const target = window.values.byteOffset + 4 * columns * row;
        const [source, from] = [codes.byteOffset + codeBytes * row, scales.byteOffset + scaleBytes * row];
        if (zeros !== undefined) rowZeros.set(zeros.subarray(groups * row, groups * (row + 1)));
        wasm.dequantizeIntegers(source, columns, width, from, isSame, dtype, bits, isAffine, flip, target);
      }
    },
  };
}

function float8Kernel(wasm: PartExports, { strategy, block }: CompressedForm): WindowKernel {
  /** Blocks of a window: first element, columns and rows, and the place of their scale. */
  const visit = (
    { matrix, count }: RowWindow,
    each: (first: number, length: number, rows: number, at: number) => void,
  ): void => {
    const { columns } = matrix;
    const [rows, width] = block ?? [1, columns];
    let at = 0;
    for (let row = 0; row < count; row += rows) {
      for (let column = 0; column < columns; column += width) {
        const scale = strategy === "tensor" ? 0 : at++;
        each(row * columns + column, Math.min(width, columns - column), Math.min(rows, count - row), scale);
      }
    }
  };
  return {
    quantize(window, { largest = 0 }) {
      const [codes, scales] = [partOf(window, "weight"), viewOf(partOf(window, "weight_scale"))];
      const { dtype, columns } = window.matrix;
      visit(window, (first, length, rows, at) => {
        const source = window.values.byteOffset + 4 * first;
        const found = strategy === "tensor" ? largest : wasm.largestMagnitude(source, length, rows, columns);
        const scale = wasm.scaleOfLargest(found, E4M3_LARGEST, DTYPES[dtype]);
        ROUNDINGS[dtype].write(scales, at, scale);
        wasm.encodeE4M3(source, length, rows, columns, scale, codes.byteOffset + first, DTYPES[dtype]);
      });
    },
    dequantize(window) {
      const [codes, scales] = [partOf(window, "weight"), viewOf(partOf(window, "weight_scale"))];
      const { dtype, columns } = window.matrix;
      visit(window, (first, length, rows, at) => {
        const scale = ROUNDINGS[dtype].read(scales, at);
        const target = window.values.byteOffset + 4 * first;
        wasm.decodeE4M3(codes.byteOffset + first, length, rows, columns, scale, target);
      });
    },
  };
}
