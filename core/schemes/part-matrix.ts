// A matrix through a scheme of parts: the bytes of every part, and the windows that a scheme fills. Called by whatever
// quantizes or reads such matrices.
import { tensorBytes } from "../tensor.ts";
import { type Matrix, type Part, type PartScheme, partRange, type RowWindow, type TensorFacts } from "./scheme.ts";

/** Bytes of parts by name, whole. */
export type PartBytes = ReadonlyMap<string, Uint8Array>;

/** Zeroed bytes of every part. */
export function allocateParts(parts: readonly Part[]): PartBytes {
  return new Map(parts.map(({ name, dtype, shape }) => [name, new Uint8Array(tensorBytes(dtype, shape))]));
}

/** Rows [first, first + count) of whole parts; `values` is [count, columns]. */
export function windowOf(
  matrix: Matrix,
  parts: readonly Part[],
  bytes: PartBytes,
  first: number,
  values: Float32Array,
): RowWindow {
  const count = values.length / matrix.columns;
  const own = parts.flatMap((part) => {
    const { offset, bytes: length } = partRange(part, first, count);
    const whole = bytes.get(part.name);
    return whole === undefined ? [] : [[part.name, whole.subarray(offset, offset + length)] as const];
  });
  return { matrix, first, count, values, parts: new Map(own) };
}

/** All parts of a matrix in memory; `values` is [rows, columns]. */
export function quantizeMatrix(
  scheme: PartScheme,
  matrix: Matrix,
  values: Float32Array,
  facts: TensorFacts = {},
): PartBytes {
  const parts = scheme.parts(matrix);
  const bytes = allocateParts(parts);
  scheme.quantize(windowOf(matrix, parts, bytes, 0, values), facts);
  return bytes;
}

/** Its values, [rows, columns]. */
export function dequantizeMatrix(scheme: PartScheme, matrix: Matrix, bytes: PartBytes): Float32Array {
  const values = new Float32Array(matrix.rows * matrix.columns);
  scheme.dequantize(windowOf(matrix, scheme.parts(matrix), bytes, 0, values));
  return values;
}
