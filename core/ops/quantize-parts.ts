// Windows of rows to the parts of a scheme and back: the meaning of the operations, in plain TypeScript. What the parts
// hold is core/schemes' business.
import type { Matrix, PartScheme, RowWindow, TensorFacts } from "../schemes/scheme.ts";

export type QuantizeParts = {
  /** Who quantizes matrices to a scheme in this kernel set; the bytes are the same. */
  partsQuantizerOf(scheme: PartScheme, matrix: Matrix): "scalar" | "wasm";
  /** Fills the window's parts from its values; both lie in memory of this kernel set. */
  quantizeParts(scheme: PartScheme, window: RowWindow, facts: TensorFacts): void;
  /** Fills the window's values from its parts; both lie in memory of this kernel set. */
  dequantizeParts(scheme: PartScheme, window: RowWindow): void;
};

export const scalarQuantizeParts: QuantizeParts = Object.freeze({
  partsQuantizerOf: () => "scalar",
  quantizeParts: (scheme, window, facts) => scheme.quantize(window, facts),
  dequantizeParts: (scheme, window) => scheme.dequantize(window),
} satisfies QuantizeParts);
