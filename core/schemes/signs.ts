// Weights of signs: binary (one bit under a scale for a channel), and DenseShift (a sign and a power of two). Without
// training their quality is poor; they are experiments.
// Source: XNOR-Net, arXiv:1603.05279; DenseShift, arXiv:2208.09708; quantization reference section 12.
import { viewOf } from "../data-view.ts";
import { packBits, packedBytes, unpackBits } from "./bit-stream.ts";
import { setLimits } from "./limits.ts";
import { largestOf, ROUNDINGS } from "./rounding.ts";
import { type Matrix, type PartScheme, partOf, type RowWindow } from "./scheme.ts";

const f = Math.fround;

const SIGNS = {
  needs: "row",
  measures: "nothing",
  hessian: "ignored",
  form: undefined,
  columnUnit: 1,
  rowsTogether: () => 1,
} as const;

function listParts({ rows, columns, dtype }: Matrix, bits: number) {
  const along = { slices: 1, rows: 1 };
  return [
    { name: "weight_packed", dtype: "I32", shape: [rows, packedBytes(columns, bits) / 4], along },
    { name: "weight_scale", dtype, shape: [rows, 1], along },
  ] as const;
}

/** Codes of every row through `encode`, which returns the row's scale. */
function encodeRows(window: RowWindow, bits: number, encode: (row: Float32Array, codes: Uint8Array) => number): void {
  const { matrix, count, values } = window;
  const { columns } = matrix;
  const bytes = packedBytes(columns, bits);
  const [packed, scales] = [partOf(window, "weight_packed"), viewOf(partOf(window, "weight_scale"))];
  const codes = new Uint8Array(columns);
  for (let row = 0; row < count; row++) {
    const scale = encode(values.subarray(row * columns, (row + 1) * columns), codes);
    ROUNDINGS[matrix.dtype].write(scales, row, scale);
    packBits(codes, columns, bits, packed.subarray(row * bytes, (row + 1) * bytes));
  }
}

function decodeRows(window: RowWindow, bits: number, decode: (code: number, scale: number) => number): void {
  const { matrix, count, values } = window;
  const { columns } = matrix;
  const bytes = packedBytes(columns, bits);
  const [packed, scales] = [partOf(window, "weight_packed"), viewOf(partOf(window, "weight_scale"))];
  const codes = new Uint8Array(columns);
  for (let row = 0; row < count; row++) {
    unpackBits(packed.subarray(row * bytes, (row + 1) * bytes), columns, bits, codes);
    const scale = ROUNDINGS[matrix.dtype].read(scales, row);
    for (let i = 0; i < columns; i++) values[row * columns + i] = f(decode(codes[i] ?? 0, scale));
  }
}

/** x ~ scale or -scale, scale = mean|x| of the row, which loses least; a set bit is plus, as is zero. */
export const binary = Object.freeze({
  ...SIGNS,
  id: "binary_channel",
  title: "signs, scale for a channel (experimental)",
  source: "XNOR-Net, arXiv:1603.05279",
  parts: (matrix) => listParts(matrix, 1),
  quantize: (window) =>
    encodeRows(window, 1, (row, codes) => {
      let sum = 0;
      for (let i = 0; i < row.length; i++) {
        sum += Math.abs(row[i] ?? 0);
        codes[i] = (row[i] ?? 0) >= 0 ? 1 : 0;
      }
      return f(sum / row.length);
    }),
  dequantize: (window) => decodeRows(window, 1, (code, scale) => (code === 1 ? scale : -scale)),
  limits: {
    width: (columns) => columns,
    read({ matrix, count, ...window }, low, high) {
      const scales = viewOf(partOf(window, "weight_scale"));
      for (let row = 0; row < count; row++) {
        const scale = ROUNDINGS[matrix.dtype].read(scales, row);
        setLimits(low, high, row, -scale, scale, scale);
      }
    },
  },
} satisfies PartScheme);

/**
 * x ~ +-2^p scale, p of bits - 1 bits, no zero; the top level is max|x| of the row. Boundaries are the arithmetic means
 * of levels, 1.5 2^p, which lose least. The sign is the code's top bit; zero is plus, p = 0.
 */
export function denseShift(bits: 3 | 4): PartScheme {
  const sign = 1 << (bits - 1);
  const levels = 2 ** (bits - 1);
  return Object.freeze({
    ...SIGNS,
    id: `dense_shift${bits}_channel`,
    title: `sign and power of two in ${bits} bits, scale for a channel (experimental)`,
    source: "DenseShift, arXiv:2208.09708",
    parts: (matrix) => listParts(matrix, bits),
    quantize: (window) =>
      encodeRows(window, bits, (row, codes) => {
        const { round } = ROUNDINGS[window.matrix.dtype];
        const scale = round(largestOf(row, 0, row.length) / 2 ** (levels - 1));
        for (let i = 0; i < row.length; i++) {
          const [value, size] = [row[i] ?? 0, Math.abs(row[i] ?? 0)];
          let power = 0;
          while (power < levels - 1 && size >= 1.5 * 2 ** power * scale && scale > 0) power++;
          codes[i] = power | (value < 0 ? sign : 0);
        }
        return scale;
      }),
    dequantize: (window) =>
      decodeRows(window, bits, (code, scale) => ((code & sign) === 0 ? 1 : -1) * 2 ** (code & (sign - 1)) * scale),
    limits: undefined,
  } satisfies PartScheme);
}
