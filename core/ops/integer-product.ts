// Products of rows of 16-bit integers, in plain TypeScript: what finds the rows of one matrix that point along the rows
// of another. Sums of integers are exact, so no order of work changes a result. A vector becomes integers by one
// factor.

/** Rows of `b`, and values of a row, that the two matrices have; `depth` is a multiple of INTEGER_LANES. */
export type IntegerShape = { readonly rows: number; readonly columns: number; readonly depth: number };

/** Integers that are read at a time; rows of another length end in zeros. */
export const INTEGER_LANES = 8;

export type IntegerProduct = {
  /**
   * target[i, j] = sum over d of a[i, d] b[j, d], modulo 2^32: of int16 a [rows, depth] and b [columns, depth], row by
   * row without gaps, into int32. WebAssembly asks for values in the kernel set's own memory.
   */
  integerProduct(target: Int32Array, a: Int16Array, b: Int16Array, shape: IntegerShape): void;
  /**
   * target[i] = source[i] factor, rounded to float32 and then to the nearest integer, ties to even; the product must be
   * within int16. Memory as above.
   */
  roundToIntegers(target: Int16Array, source: Float32Array, factor: number): void;
};

export const scalarIntegerProduct: IntegerProduct = Object.freeze({
  integerProduct(target, a, b, { rows, columns, depth }) {
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        let sum = 0;
        for (let d = 0; d < depth; d++) sum = (sum + (a[i * depth + d] ?? 0) * (b[j * depth + d] ?? 0)) | 0;
        target[i * columns + j] = sum;
      }
    }
  },
  roundToIntegers(target, source, factor) {
    const single = Math.fround(factor);
    for (let i = 0; i < source.length; i++) target[i] = roundTiesToEven(Math.fround((source[i] ?? 0) * single));
  },
} satisfies IntegerProduct);

function roundTiesToEven(value: number): number {
  const below = Math.floor(value);
  const part = value - below;
  if (part !== 0.5) return part < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}
