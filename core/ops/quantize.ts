// Rows of float32 to the blocks of a quantization scheme and back, and what was lost: the meaning of the operations, in
// plain TypeScript. What the bytes of each scheme are is core/schemes' business; these call it on kernel memory.
import { BLOCK_SCHEMES, type BlockSchemeId } from "../schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../schemes/scheme.ts";
import type { Block, Tile } from "./memory.ts";

/** Sums of squares, in float64: of the values, and of what they differ by after quantization. */
export type Loss = { readonly signal: number; readonly noise: number };

export type Quantize = {
  /**
   * Who quantizes to a scheme in this kernel set: SIMD code, or the scheme itself in plain TypeScript. The bytes are
   * the same; records name it, so that a slow run has its explanation.
   */
  quantizerOf(scheme: BlockSchemeId, isWeighted: boolean): "scalar" | "wasm";
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
  /**
   * Signal and noise of `count` values from `first` against those at the start of `back`. Every value and difference is
   * taken in float64; value i adds to partial sum i mod 4, and the result is (s0 + s1) + (s2 + s3).
   */
  measureLoss(values: Tile, first: number, back: Tile, count: number): Loss;
};

export const scalarQuantize: Quantize = Object.freeze({
  quantizerOf: () => "scalar",
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
  measureLoss(values, first, back, count) {
    const [signals, noises] = [new Float64Array(4), new Float64Array(4)];
    for (let i = 0; i < count; i++) {
      const value = values.values[first + i] ?? 0;
      const lost = value - (back.values[i] ?? 0);
      signals[i & 3] = (signals[i & 3] ?? 0) + value * value;
      noises[i & 3] = (noises[i & 3] ?? 0) + lost * lost;
    }
    return { signal: sumOfPartials(signals), noise: sumOfPartials(noises) };
  },
} satisfies Quantize);

function sumOfPartials([a = 0, b = 0, c = 0, d = 0]: Float64Array): number {
  return a + b + (c + d);
}
