// Windows of rows to the parts of a scheme and back: the meaning of the operations, in plain TypeScript. What the parts
// hold is core/schemes' business.

import type { Matrix, PartScheme, RowWindow, StoredScheme, TensorFacts } from "../schemes/scheme.ts";
import type { Loss } from "./loss.ts";

export type QuantizeParts = {
  /** Who quantizes matrices to a scheme in this kernel set; the bytes are the same. */
  partsQuantizerOf(scheme: PartScheme, matrix: Matrix): "scalar" | "wasm";
  /**
   * Fills the window's parts from its values; both lie in memory of this kernel set. Code that quantizes may measure on
   * the way: then what was lost comes back, to about six digits of what `measureLoss` gives; else undefined.
   */
  quantizeParts(scheme: PartScheme, window: RowWindow, facts: TensorFacts): Loss | undefined;
  /** Fills the window's values from its parts; both lie in memory of this kernel set. */
  dequantizeParts(scheme: StoredScheme, window: RowWindow): void;
};

export const scalarQuantizeParts: QuantizeParts = Object.freeze({
  partsQuantizerOf: () => "scalar",
  quantizeParts(scheme, window, facts) {
    scheme.quantize(window, facts);
    return undefined;
  },
  dequantizeParts: (scheme, window) => scheme.dequantize(window),
} satisfies QuantizeParts);
