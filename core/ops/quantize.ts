// Rows of float32 to the blocks of a quantization scheme and back, and what was lost: the meaning of the operations, in
// plain TypeScript. What the bytes of each scheme are is core/schemes' business; these call it on kernel memory.
import { BLOCK_SCHEMES, type BlockSchemeId } from "../schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../schemes/scheme.ts";
import type { Loss } from "./loss.ts";
import type { Block, Tile } from "./memory.ts";

/** Of every run of `width` values, the least and the greatest that are within what its codes reach. */
export type Limits = { readonly low: Tile; readonly high: Tile; readonly width: number };

export type Quantize = {
  /**
   * The blocks of one row, the `columns` values of `source` from `first`, to `target` from `byteOffset`. Values are
   * finite; `columns` is a multiple of the scheme's block. `importance` is one value >= 0 a column.
   */
  quantizeRow(
    scheme: BlockSchemeId,
    source: Tile,
    first: number,
    columns: number,
    target: Block,
    byteOffset: number,
    importance?: Tile,
  ): void;
  /** The values of one row of blocks, to the start of `target`. */
  dequantizeRow(scheme: BlockSchemeId, source: Block, byteOffset: number, target: Tile, columns: number): void;
  /** Where the codes of one row of blocks end, to the start of `low` and `high`; of a scheme that declares limits. */
  limitRow(scheme: BlockSchemeId, source: Block, byteOffset: number, columns: number, limits: Limits): void;
  /**
   * What `count` values from `first` lost against those at the start of `back`. Every value and difference is taken in
   * float64; value i adds to partial sum i mod 4, and the result is (s0 + s1) + (s2 + s3). Nothing counts as clipped
   * without limits; with them, `count` is a multiple of their width.
   */
  measureLoss(values: Tile, first: number, back: Tile, count: number, limits?: Limits): Loss;
};

export const scalarQuantize: Quantize = Object.freeze({
  quantizeRow(id, source, first, columns, target, byteOffset, importance) {
    const scheme: BlockScheme = BLOCK_SCHEMES[id];
    const blocks = target.bytes.subarray(byteOffset, byteOffset + rowBytes(scheme, columns));
    scheme.quantize(source.values.subarray(first, first + columns), blocks, importance?.values);
  },
  dequantizeRow(id, source, byteOffset, target, columns) {
    const scheme: BlockScheme = BLOCK_SCHEMES[id];
    const blocks = source.bytes.subarray(byteOffset, byteOffset + rowBytes(scheme, columns));
    scheme.dequantize(blocks, target.values.subarray(0, columns));
  },
  limitRow(id, source, byteOffset, columns, { low, high }) {
    const scheme: BlockScheme = BLOCK_SCHEMES[id];
    const blocks = source.bytes.subarray(byteOffset, byteOffset + rowBytes(scheme, columns));
    scheme.limits?.read(blocks, low.values, high.values);
  },
  measureLoss(values, first, back, count, limits) {
    const [signals, noises] = [new Float64Array(4), new Float64Array(4)];
    let largest = 0;
    for (let i = 0; i < count; i++) {
      const value = values.values[first + i] ?? 0;
      const lost = value - (back.values[i] ?? 0);
      signals[i & 3] = (signals[i & 3] ?? 0) + value * value;
      noises[i & 3] = (noises[i & 3] ?? 0) + lost * lost;
      if (Math.abs(lost) > largest) largest = Math.abs(lost);
    }
    const clipped = limits === undefined ? 0 : countBeyond(values, first, count, limits);
    return { elements: count, signal: sumOfPartials(signals), noise: sumOfPartials(noises), largest, clipped };
  },
} satisfies Quantize);

function countBeyond({ values }: Tile, first: number, count: number, { low, high, width }: Limits): number {
  let beyond = 0;
  for (let i = 0; i < count; i++) {
    const [value, run] = [values[first + i] ?? 0, Math.floor(i / width)];
    if (value < (low.values[run] ?? 0) || value > (high.values[run] ?? 0)) beyond++;
  }
  return beyond;
}

function sumOfPartials([a = 0, b = 0, c = 0, d = 0]: Float64Array): number {
  return a + b + (c + d);
}
