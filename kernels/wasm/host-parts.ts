// The WebAssembly operations on windows of quantized parts. What they compute is defined in core/schemes; here a
// scheme's kernel is chosen by the form that it declares. Schemes without one, and rows whose groups are no multiple of
// sixteen columns, go through the oracle.
import assert from "node:assert/strict";
import type { QuantizeParts } from "../../core/ops/quantize-parts.ts";
import type { CompressedForm } from "../../core/schemes/compressed-form.ts";
import type { Matrix, RowWindow, StoredScheme } from "../../core/schemes/scheme.ts";
import { type FloatExports, float8Kernel, mxfp4Kernel, nf4Kernel, nvfp4Kernel } from "./host-part-floats.ts";
import { INTEGER_BITS, type IntegerExports, integerKernel } from "./host-part-integers.ts";
import type { WindowKernel } from "./host-part-kernel.ts";

/** The functions of kernels.wasm that windows of parts need. */
export type PartExports = IntegerExports & FloatExports & { readonly beginPartsLoss: () => number };

const GROUP_ELEMENTS = 16;

/** Operations on windows over an instance and its memory. */
export function hostParts(wasm: PartExports, buffer: ArrayBuffer): QuantizeParts {
  return {
    partsQuantizerOf: (scheme, matrix) => (kernelOf(wasm, buffer, scheme, matrix) === undefined ? "scalar" : "wasm"),
    quantizeParts(scheme, window, facts) {
      checkPlace(window, buffer);
      const kernel = kernelOf(wasm, buffer, scheme, window.matrix);
      if (kernel === undefined) {
        scheme.quantize(window, facts);
        return undefined;
      }
      const sums = new Float64Array(buffer, wasm.beginPartsLoss(), 4);
      kernel.quantize(window, facts);
      if (!kernel.measures) return undefined;
      const [signal = 0, noise = 0, largest = 0, clipped = 0] = sums;
      return { elements: window.values.length, signal, noise, largest, clipped };
    },
    dequantizeParts(scheme, window) {
      checkPlace(window, buffer);
      const kernel = kernelOf(wasm, buffer, scheme, window.matrix);
      if (kernel === undefined || window.parts.has("weight_g_idx")) scheme.dequantize(window);
      else kernel.dequantize(window);
    },
  };
}

/** Addresses are offsets of views. */
function checkPlace({ values, parts }: RowWindow, buffer: ArrayBuffer): void {
  assert.ok(values.buffer === buffer, "values lie in the kernel set's memory");
  for (const bytes of parts.values()) assert.ok(bytes.buffer === buffer, "parts lie in the kernel set's memory");
}

function kernelOf(
  wasm: PartExports,
  buffer: ArrayBuffer,
  { form }: StoredScheme,
  matrix: Matrix,
): WindowKernel | undefined {
  if (form?.container === "compressed-tensors") return compressedKernel(wasm, buffer, form, matrix);
  if (form?.container !== "bitsandbytes" || (matrix.rows * matrix.columns) % form.block !== 0) return undefined;
  return nf4Kernel(wasm, form.block);
}

function compressedKernel(
  wasm: PartExports,
  buffer: ArrayBuffer,
  form: CompressedForm,
  { columns }: Matrix,
): WindowKernel | undefined {
  const width = form.group ?? form.block?.[1] ?? columns;
  if (columns % GROUP_ELEMENTS !== 0 || width % GROUP_ELEMENTS !== 0) return undefined;
  switch (form.format) {
    case "float-quantized":
      return float8Kernel(wasm, form);
    case "mxfp4-pack-quantized":
      return mxfp4Kernel(wasm);
    case "nvfp4-pack-quantized":
      return nvfp4Kernel(wasm);
    default: {
      const bits = INTEGER_BITS.find((each) => each === form.bits);
      if (bits === undefined || (!form.symmetric && columns / width > wasm.integerZerosMax())) return undefined;
      return integerKernel(wasm, buffer, form, bits);
    }
  }
}
