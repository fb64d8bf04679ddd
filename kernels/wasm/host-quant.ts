// The WebAssembly operations on rows of quantized blocks. What they compute is defined in core/ops/quantize.ts and
// core/schemes; this turns rows into addresses. Rows whose numbers are so small or large (below 2^-100, above 2^100)
// that rounding in lanes might not be the oracle's go through the oracle.
import type { Block, Tile } from "../../core/ops/memory.ts";
import { type Quantize, scalarQuantize } from "../../core/ops/quantize.ts";
import { BLOCK_SCHEMES, type BlockSchemeId } from "../../core/schemes/registry.ts";

/** Quantizes whole blocks; 1 when the oracle must do the row. */
type QuantizePlain = (source: number, target: number, blocks: number) => number;
/** The same; the address of the importances is 0 when there are none. */
type QuantizeWeighted = (source: number, target: number, blocks: number, importance: number) => number;
type Dequantize = (source: number, target: number, blocks: number) => void;
type Limit = (source: number, blocks: number, low: number, high: number) => void;
type Convert = (source: number, target: number, count: number) => number;

type SimpleId = "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1";
type SearchedId = "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K" | "IQ4_NL" | "IQ4_XS";
/** Schemes that an importance matrix does not change: those whose scale always reaches every value, and others. */
type ReachingId = "Q8_0" | "TQ1_0" | "TQ2_0";
type IgnoringId = "MXFP4" | "NVFP4" | "Q1_0";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type QuantExports = { readonly [id in `quantize${SimpleId | ReachingId | IgnoringId}`]: QuantizePlain } & {
  readonly [id in `weighted${SimpleId}` | `quantize${SearchedId}`]: QuantizeWeighted;
} & { readonly [id in `dequantize${SimpleId | SearchedId | ReachingId | IgnoringId}`]: Dequantize } & {
  readonly [id in `limits${SimpleId | SearchedId | IgnoringId}`]: Limit;
} & {
  readonly [name in `${"widen" | "narrow"}${"F32" | "F16" | "BF16"}`]: Convert;
} & {
  readonly measureLoss: (values: number, back: number, count: number) => void;
  readonly lossSums: () => number;
  readonly countBeyond: (values: number, count: number, width: number, low: number, high: number) => number;
};

/** SIMD code of one scheme. */
type RowKernel = {
  readonly plain: QuantizePlain;
  readonly weighted: QuantizeWeighted;
  readonly dequantize: Dequantize;
  /** Undefined where the scheme declares none. */
  readonly limit: Limit | undefined;
};

/** Operations on quantized rows over an instance and its memory. */
export function hostQuant(wasm: QuantExports, buffer: ArrayBuffer): Quantize {
  const sums = new Float64Array(buffer, wasm.lossSums(), 3);
  const kernels = rowKernels(wasm);
  return {
    quantizeRow(scheme, source, first, columns, target, byteOffset, importance) {
      const { plain, weighted } = kernels[scheme];
      const blocks = columns / BLOCK_SCHEMES[scheme].blockElements;
      const [from, to] = [source.address + 4 * first, target.address + byteOffset];
      const status =
        importance === undefined ? plain(from, to, blocks) : weighted(from, to, blocks, importance.address);
      if (status !== 0) {
        scalarQuantize.quantizeRow(scheme, source, first, columns, target, byteOffset, importance);
      }
    },
    dequantizeRow(scheme, source: Block, byteOffset, target: Tile, columns) {
      const blocks = columns / BLOCK_SCHEMES[scheme].blockElements;
      kernels[scheme].dequantize(source.address + byteOffset, target.address, blocks);
    },
    limitRow(scheme, source, byteOffset, columns, limits) {
      const blocks = columns / BLOCK_SCHEMES[scheme].blockElements;
      kernels[scheme].limit?.(source.address + byteOffset, blocks, limits.low.address, limits.high.address);
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

function rowKernels(wasm: QuantExports): Record<BlockSchemeId, RowKernel> {
  const simple = (id: SimpleId): RowKernel => ({
    plain: wasm[`quantize${id}`],
    weighted: wasm[`weighted${id}`],
    dequantize: wasm[`dequantize${id}`],
    limit: wasm[`limits${id}`],
  });
  const searched = (id: SearchedId): RowKernel => ({
    plain: (source, target, blocks) => wasm[`quantize${id}`](source, target, blocks, 0),
    weighted: wasm[`quantize${id}`],
    dequantize: wasm[`dequantize${id}`],
    limit: wasm[`limits${id}`],
  });
  const reaching = (id: ReachingId) => ignoring(wasm[`quantize${id}`], wasm[`dequantize${id}`], undefined);
  const limited = (id: IgnoringId) => ignoring(wasm[`quantize${id}`], wasm[`dequantize${id}`], wasm[`limits${id}`]);
  return {
    bf16: castKernel(wasm.narrowBF16, wasm.widenBF16),
    f16: castKernel(wasm.narrowF16, wasm.widenF16),
    f32: castKernel(wasm.narrowF32, wasm.widenF32),
    iq4_nl: searched("IQ4_NL"),
    iq4_xs: searched("IQ4_XS"),
    mxfp4: limited("MXFP4"),
    nvfp4: limited("NVFP4"),
    q1_0: limited("Q1_0"),
    q2_k: searched("Q2_K"),
    q3_k: searched("Q3_K"),
    q4_0: simple("Q4_0"),
    q4_1: simple("Q4_1"),
    q4_k: searched("Q4_K"),
    q5_0: simple("Q5_0"),
    q5_1: simple("Q5_1"),
    q5_k: searched("Q5_K"),
    q6_k: searched("Q6_K"),
    q8_0: reaching("Q8_0"),
    tq1_0: reaching("TQ1_0"),
    tq2_0: reaching("TQ2_0"),
  };
}

function ignoring(plain: QuantizePlain, dequantize: Dequantize, limit: Limit | undefined): RowKernel {
  return { plain, weighted: plain, dequantize, limit };
}

/** Finite values need nothing but rounding; overflow gives infinity, as it should. */
function castKernel(narrow: Convert, widen: Convert): RowKernel {
  const plain: QuantizePlain = (source, target, count) => {
    narrow(source, target, count);
    return 0;
  };
  const dequantize: Dequantize = (source, target, count) => {
    widen(source, target, count);
  };
  return ignoring(plain, dequantize, undefined);
}
