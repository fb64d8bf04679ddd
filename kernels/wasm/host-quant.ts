// The WebAssembly operations on rows of quantized blocks. What they compute is defined in core/ops/quantize.ts and
// core/schemes; this turns rows into addresses. Schemes without SIMD code go through the oracle, and so do rows whose
// numbers are so small or large (below 2^-100, above 2^100) that rounding in lanes might not be the oracle's.
import type { Block, Tile } from "../../core/ops/memory.ts";
import { type Quantize, scalarQuantize } from "../../core/ops/quantize.ts";
import { BLOCK_SCHEMES, type BlockSchemeId } from "../../core/schemes/registry.ts";

/** Quantizes whole blocks; 1 when the oracle must do the row. */
type QuantizePlain = (source: number, target: number, blocks: number) => number;
/** The same; the address of the importances is 0 when there are none. */
type QuantizeWeighted = (source: number, target: number, blocks: number, importance: number) => number;
type Dequantize = (source: number, target: number, blocks: number) => void;
type Convert = (source: number, target: number, count: number) => number;

type SimpleId = "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1";
type SearchedId = "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K" | "IQ4_NL" | "IQ4_XS";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type QuantExports = { readonly [id in `quantize${SimpleId | "Q8_0"}`]: QuantizePlain } & {
  readonly [id in `weighted${SimpleId}` | `quantize${SearchedId}`]: QuantizeWeighted;
} & { readonly [id in `dequantize${SimpleId | SearchedId | "Q8_0"}`]: Dequantize } & {
  readonly [name in `${"widen" | "narrow"}${"F32" | "F16" | "BF16"}`]: Convert;
} & {
  readonly measureLoss: (values: number, back: number, count: number) => void;
  readonly lossSums: () => number;
  readonly countBeyond: (values: number, count: number, width: number, low: number, high: number) => number;
};

/** SIMD code of one scheme. */
type RowKernel = {
  readonly plain: QuantizePlain;
  /** Undefined where only the oracle heeds an importance matrix. */
  readonly weighted: QuantizeWeighted | undefined;
  readonly dequantize: Dequantize;
};

/** Operations on quantized rows over an instance and its memory. */
export function hostQuant(wasm: QuantExports, buffer: ArrayBuffer): Quantize {
  const sums = new Float64Array(buffer, wasm.lossSums(), 3);
  const kernels = rowKernels(wasm);
  return {
    quantizerOf(scheme, isWeighted) {
      const kernel = kernels[scheme];
      return kernel !== undefined && (!isWeighted || kernel.weighted !== undefined) ? "wasm" : "scalar";
    },
    quantizeRow(scheme, source, first, columns, target, byteOffset, importance) {
      const kernel = kernels[scheme];
      const blocks = columns / BLOCK_SCHEMES[scheme].blockElements;
      const [from, to] = [source.address + 4 * first, target.address + byteOffset];
      const status = runRow(kernel, from, to, blocks, importance);
      if (status !== 0) {
        scalarQuantize.quantizeRow(scheme, source, first, columns, target, byteOffset, importance);
      }
    },
    dequantizeRow(scheme, source: Block, byteOffset, target: Tile, columns) {
      const kernel = kernels[scheme];
      const blocks = columns / BLOCK_SCHEMES[scheme].blockElements;
      if (kernel === undefined) scalarQuantize.dequantizeRow(scheme, source, byteOffset, target, columns);
      else kernel.dequantize(source.address + byteOffset, target.address, blocks);
    },
    measureLoss(values, first, back, count, limits) {
      const from = values.address + 4 * first;
      wasm.measureLoss(from, back.address, count);
      const clipped =
        limits === undefined ? 0 : wasm.countBeyond(from, count, limits.width, limits.low.address, limits.high.address);
      const [signal = 0, noise = 0, largest = 0] = sums;
      return { elements: count, signal, noise, largest, clipped };
    },
  };
}

function runRow(
  kernel: RowKernel | undefined,
  source: number,
  target: number,
  blocks: number,
  importance: Tile | undefined,
): number {
  if (kernel === undefined) return 1;
  if (importance === undefined) return kernel.plain(source, target, blocks);
  return kernel.weighted?.(source, target, blocks, importance.address) ?? 1;
}

function rowKernels(wasm: QuantExports): Partial<Record<BlockSchemeId, RowKernel>> {
  const simple = (id: SimpleId): RowKernel => ({
    plain: wasm[`quantize${id}`],
    weighted: wasm[`weighted${id}`],
    dequantize: wasm[`dequantize${id}`],
  });
  const searched = (id: SearchedId): RowKernel => ({
    plain: (source, target, blocks) => wasm[`quantize${id}`](source, target, blocks, 0),
    weighted: wasm[`quantize${id}`],
    dequantize: wasm[`dequantize${id}`],
  });
  return {
    bf16: castKernel(wasm.narrowBF16, wasm.widenBF16),
    f16: castKernel(wasm.narrowF16, wasm.widenF16),
    f32: castKernel(wasm.narrowF32, wasm.widenF32),
    iq4_nl: searched("IQ4_NL"),
    iq4_xs: searched("IQ4_XS"),
    q2_k: searched("Q2_K"),
    q3_k: searched("Q3_K"),
    q4_0: simple("Q4_0"),
    q4_1: simple("Q4_1"),
    q4_k: searched("Q4_K"),
    q5_0: simple("Q5_0"),
    q5_1: simple("Q5_1"),
    q5_k: searched("Q5_K"),
    q6_k: searched("Q6_K"),
    q8_0: ignoring(wasm.quantizeQ8_0, wasm.dequantizeQ8_0),
  };
}

/** A scheme that an importance matrix does not change. */
function ignoring(plain: QuantizePlain, dequantize: Dequantize): RowKernel {
  return { plain, weighted: plain, dequantize };
}

/** Finite values need nothing but rounding; overflow gives infinity, as it should. */
function castKernel(narrow: Convert, widen: Convert): RowKernel {
  const plain: QuantizePlain = (source, target, count) => {
    narrow(source, target, count);
    return 0;
  };
  return ignoring(plain, (source, target, count) => {
    widen(source, target, count);
  });
}
