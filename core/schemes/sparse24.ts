// 2:4 sparsity: of every four values the two largest stay, with a bit for each place. Servers dropped this storage in
// 2026 (vLLM and compressed-tensors); it is written for this program's own reader and for older ones.
// Source: compressed-tensors sparse-24-bitmask; quantization reference section 4.
import { viewOf } from "../data-view.ts";
import { ROUNDINGS } from "./rounding.ts";
import { type PartScheme, partOf } from "./scheme.ts";

/** Which of four values stay, as bits: the two of largest magnitude; of equals, the earlier. */
export function keepTwo(values: Float32Array, first: number): number {
  let [largest, second] = [0, 1];
  const size = (i: number) => Math.abs(values[first + i] ?? 0);
  if (size(1) > size(0)) [largest, second] = [1, 0];
  for (const i of [2, 3]) {
    if (size(i) > size(largest)) [largest, second] = [i, largest];
    else if (size(i) > size(second)) second = i;
  }
  return (1 << largest) | (1 << second);
}

export const sparse24 = Object.freeze({
  id: "sparse24_bitmask",
  title: "two of every four values, and which (2:4)",
  source: "compressed-tensors sparse-24-bitmask",
  needs: "stream",
  measures: "nothing",
  hessian: "ignored",
  form: undefined,
  columnUnit: 8,
  rowsTogether: () => 1,
  parts({ rows, columns, dtype }) {
    const along = { slices: 1, rows: 1 };
    return [
      { name: "compressed", dtype, shape: [rows, columns / 2], along },
      { name: "bitmask", dtype: "U8", shape: [rows, columns / 8], along },
      { name: "shape", dtype: "I64", shape: [2, 1], along: undefined },
    ];
  },
  quantize(window) {
    const { matrix, values } = window;
    const { write } = ROUNDINGS[matrix.dtype];
    const [kept, mask] = [viewOf(partOf(window, "compressed")), partOf(window, "bitmask")];
    const shape = viewOf(partOf(window, "shape"));
    shape.setBigInt64(0, BigInt(matrix.rows), true);
    shape.setBigInt64(8, BigInt(matrix.columns), true);
    mask.fill(0);
    let at = 0;
    for (let first = 0; first < values.length; first += 4) {
      const bits = keepTwo(values, first);
      mask[first >> 3] = (mask[first >> 3] ?? 0) | (bits << (first & 4));
      for (let i = 0; i < 4; i++) if (((bits >> i) & 1) === 1) write(kept, at++, values[first + i] ?? 0);
    }
  },
  dequantize(window) {
    const { matrix, values } = window;
    const { read } = ROUNDINGS[matrix.dtype];
    const [kept, mask] = [viewOf(partOf(window, "compressed")), partOf(window, "bitmask")];
    let at = 0;
    for (let i = 0; i < values.length; i++) {
      const isKept = (((mask[i >> 3] ?? 0) >> (i & 7)) & 1) === 1 && at < values.length / 2;
      values[i] = isKept ? read(kept, at++) : 0;
    }
  },
  limits: undefined,
} satisfies PartScheme);
