// A matrix quantized and dequantized again, and the bytes it takes meanwhile: what a scheme makes of weights, without a
// container. For measuring; plain TypeScript.
import { tensorBytes } from "../tensor.ts";
import { type BlockScheme, type Matrix, type PartScheme, partRange, rowBytes } from "./scheme.ts";

/** Values [rows, columns] after storing them in blocks, row by row. */
export function roundTripBlocks(scheme: BlockScheme, { rows, columns }: Matrix, values: Float32Array): Float32Array {
  const blocks = new Uint8Array(rowBytes(scheme, columns));
  const back = new Float32Array(rows * columns);
  for (let first = 0; first < back.length; first += columns) {
    scheme.quantize(values.subarray(first, first + columns), blocks);
    scheme.dequantize(blocks, back.subarray(first, first + columns));
  }
  return back;
}

/** Values [rows, columns] after storing them in parts, the whole matrix in one window. */
export function roundTripParts(scheme: PartScheme, matrix: Matrix, values: Float32Array): Float32Array {
  const { rows, columns } = matrix;
  const listed = scheme.parts(matrix);
  const bytes = listed.map((part) => [part.name, new Uint8Array(partRange(part, 0, rows).bytes)] as const);
  const window = { matrix, first: 0, count: rows, parts: new Map(bytes) };
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  scheme.quantize({ ...window, values }, { largest });
  const back = new Float32Array(rows * columns);
  scheme.dequantize({ ...window, values: back });
  return back;
}

/** Bytes of all parts of a matrix. */
export function partBytes(scheme: PartScheme, matrix: Matrix): number {
  return scheme.parts(matrix).reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0);
}
