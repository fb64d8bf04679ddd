// What SIMD code for windows of parts is, as host-parts.ts chooses it among host-part-integers.ts and
// host-part-floats.ts.
import type { RowWindow, TensorFacts } from "../../core/schemes/scheme.ts";
import type { ScaleDtype } from "../../core/tensor.ts";

/** SIMD code for the matrices of one form. */
export type WindowKernel = {
  /** Quantizing adds what was lost to the sums that beginPartsLoss names. */
  readonly measures: boolean;
  quantize(window: RowWindow, facts: TensorFacts): void;
  dequantize(window: RowWindow): void;
};

/** Dtypes of weights as the kernels number them. */
export const DTYPES: Readonly<Record<ScaleDtype, number>> = { F32: 0, BF16: 1, F16: 2 };
