// The WebAssembly operations on windows of quantized parts: symmetric integers of 4 and 8 bits, and E4M3. What they
// compute is defined in core/schemes; this turns rows into addresses. Other schemes, and rows whose groups are no
// multiple of sixteen columns, go through the oracle.
import assert from "node:assert/strict";
import type { QuantizeParts } from "../../core/ops/quantize-parts.ts";
import type { CompressedForm } from "../../core/schemes/compressed-form.ts";
import { ROUNDINGS, viewOf } from "../../core/schemes/rounding.ts";
import { type Matrix, partOf, type RowWindow, type StoredScheme, type TensorFacts } from "../../core/schemes/scheme.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes, `rounds` is 1 for weights of BF16. */
export type PartExports = {
  readonly beginPartsLoss: () => number;
  readonly largestMagnitude: (...args: BlockOf) => number;
  readonly scaleOfLargest: (largest: number, steps: number, rounds: number) => number;
  readonly quantizeIntegers4: (...args: QuantizeIntegers) => void;
  readonly quantizeIntegers8: (...args: [...QuantizeIntegers, offset: number]) => void;
  readonly dequantizeIntegers: (
    ...args: [
      source: number,
      count: number,
      width: number,
      scales: number,
      isShared: number,
      rounds: number,
      bits: number,
      offset: number,
      target: number,
    ]
  ) => void;
  readonly encodeE4M3: (...args: [...BlockOf, scale: number, target: number, rounds: number]) => void;
  readonly decodeE4M3: (...args: [...BlockOf, scale: number, target: number]) => void;
};

/** `count` values in each of `rows` rows, which are `stride` values apart. */
type BlockOf = [source: number, count: number, rows: number, stride: number];

type QuantizeIntegers = [
  source: number,
  count: number,
  width: number,
  target: number,
  scales: number,
  shared: number,
  rounds: number,
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
    partsQuantizerOf: (scheme, matrix) => (kernelOf(wasm, scheme, matrix) === undefined ? "scalar" : "wasm"),
    quantizeParts(scheme, window, facts) {
      checkPlace(window, buffer);
      const kernel = kernelOf(wasm, scheme, window.matrix);
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
      const kernel = kernelOf(wasm, scheme, window.matrix);
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

function kernelOf(wasm: PartExports, { form }: StoredScheme, { columns, dtype }: Matrix): WindowKernel | undefined {
  if (form?.container !== "compressed-tensors" || dtype === "F16" || !form.symmetric) return undefined;
  const width = form.group ?? form.block?.[1] ?? columns;
  if (columns % GROUP_ELEMENTS !== 0 || width % GROUP_ELEMENTS !== 0) return undefined;
  if (form.format === "float-quantized") return float8Kernel(wasm, form);
  const isInteger = form.format === "pack-quantized" || form.format === "int-quantized";
  return isInteger && (form.bits === 4 || form.bits === 8) ? integerKernel(wasm, form) : undefined;
}

function integerKernel(wasm: PartExports, { format, bits, strategy, group }: CompressedForm): WindowKernel {
  const packed = format === "pack-quantized";
  const name = packed ? "weight_packed" : "weight";
  const offset = packed ? 2 ** (bits - 1) : 0;
  const isShared = strategy === "tensor";
  const place = (window: RowWindow) => {
    const { columns, dtype } = window.matrix;
    const width = group ?? columns;
    const scales = partOf(window, "weight_scale");
    const scaleBytes = isShared ? 0 : (columns / width) * ROUNDINGS[dtype].bytes;
    const codeBytes = (columns * bits) / 8;
    const rounds = dtype === "BF16" ? 1 : 0;
    return { columns, width, scales, scaleBytes, codes: partOf(window, name), codeBytes, rounds };
  };
  return {
    quantize(window, { largest = 0 }) {
      const { columns, width, scales, scaleBytes, codes, codeBytes, rounds } = place(window);
      const shared = isShared ? wasm.scaleOfLargest(largest, (2 ** bits - 1) / 2, rounds) : 0;
      if (isShared) ROUNDINGS[window.matrix.dtype].write(viewOf(scales), 0, shared);
      for (let row = 0; row < window.count; row++) {
        const source = window.values.byteOffset + 4 * columns * row;
        const [target, to] = [codes.byteOffset + codeBytes * row, scales.byteOffset + scaleBytes * row];
        if (bits === 4) wasm.quantizeIntegers4(source, columns, width, target, to, shared, rounds);
        else wasm.quantizeIntegers8(source, columns, width, target, to, shared, rounds, offset);
      }
      writeShape(window);
    },
    dequantize(window) {
      const { columns, width, scales, scaleBytes, codes, codeBytes, rounds } = place(window);
      for (let row = 0; row < window.count; row++) {
        const target = window.values.byteOffset + 4 * columns * row;
        const [source, from] = [codes.byteOffset + codeBytes * row, scales.byteOffset + scaleBytes * row];
        const isSame = isShared ? 1 : 0;
        wasm.dequantizeIntegers(source, columns, width, from, isSame, rounds, bits, offset, target);
      }
    },
  };
}

/** The matrix's own shape, which packed words do not tell. */
function writeShape({ matrix, parts }: RowWindow): void {
  const shape = parts.get("weight_shape");
  if (shape === undefined) return;
  const view = viewOf(shape);
  view.setBigInt64(0, BigInt(matrix.rows), true);
  view.setBigInt64(8, BigInt(matrix.columns), true);
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
      const [rounding, rounds] = [ROUNDINGS[dtype], dtype === "BF16" ? 1 : 0];
      visit(window, (first, length, rows, at) => {
        const source = window.values.byteOffset + 4 * first;
        const found = strategy === "tensor" ? largest : wasm.largestMagnitude(source, length, rows, columns);
        const scale = wasm.scaleOfLargest(found, E4M3_LARGEST, rounds);
        rounding.write(scales, at, scale);
        wasm.encodeE4M3(source, length, rows, columns, scale, codes.byteOffset + first, rounds);
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
