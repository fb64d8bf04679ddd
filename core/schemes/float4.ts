// 4-bit floats as compressed-tensors stores them: NVFP4, with an E4M3 scale for 16 under a float32 for the tensor, and
// MXFP4, with a power of two for 32. GGUF files hold the same numbers in another layout (fp4.ts).
// Source: compressed-tensors; OCP microscaling formats; quantization reference section 4.
import { viewOf } from "../data-view.ts";
import { largestOf } from "./rounding.ts";
import { type Matrix, type Part, type PartScheme, partOf, type RowWindow } from "./scheme.ts";
import { E2M1, E4M3, encodeSaturated, powerOf } from "./small-floats.ts";

const f = Math.fround;
const bits = new DataView(new ArrayBuffer(4));
/** What a group's E4M3 scale of zero becomes. */
const NV_EPSILON = 0.125;

const FLOAT4 = {
  container: "compressed-tensors",
  bits: 4,
  type: "float",
  symmetric: true,
  block: undefined,
  activations: "none",
} as const;

/** One step for a run of values: even columns take the low nibble. */
function encodeRun(values: Float32Array, first: number, count: number, scale: number, codes: Uint8Array): void {
  for (let i = first; i < first + count; i += 2) {
    const low = encodeSaturated(E2M1, f((values[i] ?? 0) / scale));
    codes[i >> 1] = low | (encodeSaturated(E2M1, f((values[i + 1] ?? 0) / scale)) << 4);
  }
}

function decodeRun(codes: Uint8Array, first: number, count: number, scale: number, values: Float32Array): void {
  for (let i = first; i < first + count; i += 2) {
    const byte = codes[i >> 1] ?? 0;
    values[i] = f((E2M1.values[byte & 15] ?? 0) * scale);
    values[i + 1] = f((E2M1.values[byte >> 4] ?? 0) * scale);
  }
}

function packedPart({ rows, columns }: Matrix): Part {
  return { name: "weight_packed", dtype: "U8", shape: [rows, columns / 2], along: { slices: 1, rows: 1 } };
}

function forEachGroup({ matrix, count }: RowWindow, width: number, visit: (first: number, at: number) => void): void {
  for (let at = 0; at * width < count * matrix.columns; at++) visit(at * width, at);
}

/** 448 * 6 / max|x|; 1 where that is no number. */
export function globalScale(largest: number): number {
  const scale = f(448 * 6 * f(1 / largest));
  return Number.isFinite(scale) ? scale : 1;
}

/**
 * G = 448 * 6 (1 / max|x|) over the tensor and its fused neighbours; s = E4M3(G max|group| / 6); code = E2M1(x / (s /
 * G)), clamped; x ~ code s / G. In float32, whatever dtype the weights have.
 */
export const nvfp4a16 = Object.freeze({
  id: "nvfp4a16",
  title: "4-bit floats, E4M3 scale for 16 under one for the tensor (NVFP4)",
  source: "compressed-tensors nvfp4-pack-quantized",
  needs: "tensor",
  measures: "largest",
  hessian: "ignored",
  form: { ...FLOAT4, format: "nvfp4-pack-quantized", strategy: "tensor_group", group: 16 },
  columnUnit: 16,
  rowsTogether: () => 1,
  parts: (matrix) => [
    packedPart(matrix),
    {
      name: "weight_scale",
      dtype: "F8_E4M3",
      shape: [matrix.rows, matrix.columns / 16],
      along: { slices: 1, rows: 1 },
    },
    { name: "weight_global_scale", dtype: "F32", shape: [1], along: undefined },
  ],
  quantize(window, { largest = 0 }) {
    const [codes, scales] = [partOf(window, "weight_packed"), partOf(window, "weight_scale")];
    const known = globalScale(largest);
    viewOf(partOf(window, "weight_global_scale")).setFloat32(0, known, true);
    forEachGroup(window, 16, (first, at) => {
      const wanted = f(known * f(largestOf(window.values, first, 16) / 6));
      const code = encodeSaturated(E4M3, wanted);
      scales[at] = code === 0 ? encodeSaturated(E4M3, NV_EPSILON) : code;
      encodeRun(window.values, first, 16, f((E4M3.values[scales[at] ?? 0] ?? 0) / known), codes);
    });
  },
  dequantize(window) {
    const [codes, scales] = [partOf(window, "weight_packed"), partOf(window, "weight_scale")];
    const global = viewOf(partOf(window, "weight_global_scale")).getFloat32(0, true);
    forEachGroup(window, 16, (first, at) => {
      decodeRun(codes, first, 16, f((E4M3.values[scales[at] ?? 0] ?? 0) / global), window.values);
    });
  },
  limits: undefined,
} satisfies PartScheme);

/** The exponent of max|x|, its mantissa rounded at 1.75 up to the next power of two, minus that of the largest code. */
function groupExponent(largest: number): number {
  bits.setFloat32(0, largest, true);
  const rounded = (bits.getUint32(0, true) + 0x200000) & 0x7f800000;
  return Math.max(0, (rounded >>> 23) - 2);
}

/** code = E2M1(x / 2^(e - 127)), clamped; x ~ code 2^(e - 127). */
export const mxfp4a16 = Object.freeze({
  id: "mxfp4a16",
  title: "4-bit floats under a power of two for 32 (MXFP4)",
  source: "compressed-tensors mxfp4-pack-quantized; OCP microscaling formats",
  needs: "stream",
  measures: "nothing",
  hessian: "ignored",
  form: { ...FLOAT4, format: "mxfp4-pack-quantized", strategy: "group", group: 32 },
  columnUnit: 32,
  rowsTogether: () => 1,
  parts: (matrix) => [
    packedPart(matrix),
    { name: "weight_scale", dtype: "U8", shape: [matrix.rows, matrix.columns / 32], along: { slices: 1, rows: 1 } },
  ],
  quantize(window) {
    const [codes, scales] = [partOf(window, "weight_packed"), partOf(window, "weight_scale")];
    forEachGroup(window, 32, (first, at) => {
      const exponent = groupExponent(largestOf(window.values, first, 32));
      scales[at] = exponent;
      encodeRun(window.values, first, 32, powerOf(exponent), codes);
    });
  },
  dequantize(window) {
    const [codes, scales] = [partOf(window, "weight_packed"), partOf(window, "weight_scale")];
    forEachGroup(window, 32, (first, at) => decodeRun(codes, first, 32, powerOf(scales[at] ?? 0), window.values));
  },
  limits: undefined,
} satisfies PartScheme);
