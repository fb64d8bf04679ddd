// Floats of 8 and 4 bits, and tables of sixteen, in windows of parts, by the kernels of kernels.wasm:
// core/schemes/float8.ts, float4.ts and nf4.ts. Called by host-parts.ts.
import { viewOf } from "../../core/data-view.ts";
import type { CompressedForm } from "../../core/schemes/compressed-form.ts";
import { globalScale } from "../../core/schemes/float4.ts";
import { writeTable } from "../../core/schemes/nf4.ts";
import { ROUNDINGS } from "../../core/schemes/rounding.ts";
import { partOf, type RowWindow } from "../../core/schemes/scheme.ts";
import { DTYPES, type WindowKernel } from "./host-part-kernel.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes, dtypes as DTYPES has them. */
export type FloatExports = {
  readonly largestMagnitude: (...args: BlockOf) => number;
  readonly scaleOfLargest: (largest: number, steps: number, dtype: number) => number;
  readonly encodeE4M3: (...args: [...BlockOf, scale: number, target: number, dtype: number]) => void;
  readonly decodeE4M3: (...args: [...BlockOf, scale: number, target: number]) => void;
  readonly quantizeFloats4MX: (source: number, count: number, codes: number, scales: number) => void;
  readonly dequantizeFloats4MX: (source: number, count: number, scales: number, target: number) => void;
  readonly quantizeFloats4NV: (source: number, count: number, codes: number, scales: number, global: number) => void;
  readonly dequantizeFloats4NV: (source: number, count: number, scales: number, global: number, target: number) => void;
  readonly quantizeTable4: (
    ...args: [source: number, count: number, block: number, table: number, target: number, scales: number]
  ) => void;
  readonly dequantizeTable4: (
    ...args: [source: number, count: number, block: number, table: number, scales: number, target: number]
  ) => void;
};

/** `count` values in each of `rows` rows, which are `stride` values apart. */
type BlockOf = [source: number, count: number, rows: number, stride: number];

/** Largest value of E4M3. */
const E4M3_LARGEST = 448;

/** E4M3 under scales for a channel, a block or the tensor. */
export function float8Kernel(wasm: FloatExports, { strategy, block }: CompressedForm): WindowKernel {
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
    measures: true,
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

/** 4-bit floats under a power of two for 32. */
export function mxfp4Kernel(wasm: FloatExports): WindowKernel {
  return {
    measures: true,
    quantize(window) {
      const { values, codes, scales } = placeFloats4(window);
      wasm.quantizeFloats4MX(values.byteOffset, values.length, codes.byteOffset, scales.byteOffset);
    },
    dequantize(window) {
      const { values, codes, scales } = placeFloats4(window);
      wasm.dequantizeFloats4MX(codes.byteOffset, values.length, scales.byteOffset, values.byteOffset);
    },
  };
}

/** 4-bit floats under an E4M3 for 16, under a scale for the tensor. */
export function nvfp4Kernel(wasm: FloatExports): WindowKernel {
  return {
    measures: true,
    quantize(window, { largest = 0 }) {
      const { values, codes, scales } = placeFloats4(window);
      const global = globalScale(largest);
      viewOf(partOf(window, "weight_global_scale")).setFloat32(0, global, true);
      wasm.quantizeFloats4NV(values.byteOffset, values.length, codes.byteOffset, scales.byteOffset, global);
    },
    dequantize(window) {
      const { values, codes, scales } = placeFloats4(window);
      const global = viewOf(partOf(window, "weight_global_scale")).getFloat32(0, true);
      wasm.dequantizeFloats4NV(codes.byteOffset, values.length, scales.byteOffset, global, values.byteOffset);
    },
  };
}

function placeFloats4(window: RowWindow) {
  const [codes, scales] = [partOf(window, "weight_packed"), partOf(window, "weight_scale")];
  return { values: window.values, codes, scales };
}

/** Whole blocks of codes into the table of NF4. */
export function nf4Kernel(wasm: FloatExports, block: number): WindowKernel {
  const place = (window: RowWindow) => {
    const [codes, scales] = [partOf(window, "weight"), partOf(window, "weight.absmax")];
    return { values: window.values, codes, scales, table: partOf(window, "weight.quant_map").byteOffset };
  };
  return {
    measures: false,
    quantize(window) {
      const { values, codes, scales, table } = place(window);
      writeTable(window, block);
      wasm.quantizeTable4(values.byteOffset, values.length, block, table, codes.byteOffset, scales.byteOffset);
    },
    dequantize(window) {
      const { values, codes, scales, table } = place(window);
      wasm.dequantizeTable4(codes.byteOffset, values.length, block, table, scales.byteOffset, values.byteOffset);
    },
  };
}
