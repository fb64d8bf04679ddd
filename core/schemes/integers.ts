// Integers of 1 to 8 bits under a scale for a group, a channel or a tensor, as compressed-tensors stores them: packed
// into words ("pack-quantized") or as signed bytes ("int-quantized").
// Source: compressed-tensors; quantization reference section 4.
import assert from "node:assert/strict";
import { viewOf } from "../data-view.ts";
import { MergeyardError } from "../error.ts";
import { packBits, packColumn, packedBytes, unpackBits, unpackColumn } from "./bit-stream.ts";
import type { CompressedForm } from "./compressed-form.ts";
import { setLimits } from "./limits.ts";
import { createRun, ROUNDINGS, type Rounding, type Run, roundEven } from "./rounding.ts";
import { type Part, type PartScheme, partOf, type RowWindow } from "./scheme.ts";

export type IntegerForm = {
  readonly id: string;
  readonly title: string;
  readonly bits: number;
  /** Elements of a row that share a scale; "row": one channel, "tensor": all. */
  readonly group: number | "row" | "tensor";
  readonly symmetric: boolean;
  /** False: one signed byte for each code, of 8 bits. */
  readonly packed: boolean;
  readonly activations: "none" | "token";
};

/** Such folders hold every one of these. */
export type IntegerScheme = PartScheme & { readonly form: CompressedForm };

/** How wide codes are, and whether words or bytes hold them. */
export type CodeForm = Pick<IntegerForm, "bits" | "packed">;

/** Rows whose packed zero points fill whole words, at any width. */
const ROWS_TOGETHER = 32;

/**
 * q = round(x / scale + zero) clamped to b bits, ties to even; x ~ (q - zero) scale. Symmetric: scale = max|x| / (2^b -
 * 1) * 2, so the negative extreme takes the lowest code and the positive one is clipped. Asymmetric: the range always
 * holds zero. Every operation rounds to the weights' dtype. A group of zeros has the scale epsilon, and its lowest code
 * as the zero point.
 */
export function integers(form: IntegerForm): IntegerScheme {
  const { id, title, group, symmetric } = form;
  assert.ok(symmetric || group !== "tensor", "a tensor's zero point is nowhere stored");
  return Object.freeze({
    id,
    title,
    source: "compressed-tensors",
    needs: group === "tensor" ? "tensor" : group === "row" ? "row" : "stream",
    measures: group === "tensor" ? "largest" : "nothing",
    hessian: "ignored",
    form: describe(form),
    columnUnit: typeof group === "number" ? group : 1,
    rowsTogether: () => (symmetric ? 1 : ROWS_TOGETHER),
    parts: (matrix) => listParts(form, matrix),
    quantize: (window, { largest }) => quantizeWindow(form, window, largest),
    dequantize: (window) => dequantizeWindow(form, window),
    limits: {
      width: (columns) => groupsOf(form, columns).width,
      read: (window, low, high) => readLimits(form, window, low, high),
    },
  } satisfies PartScheme);
}

function describe({ bits, group, symmetric, packed, activations }: IntegerForm): CompressedForm {
  return Object.freeze({
    container: "compressed-tensors",
    format: packed ? "pack-quantized" : "int-quantized",
    bits,
    type: "int",
    symmetric,
    strategy: group === "tensor" ? "tensor" : group === "row" ? "channel" : "group",
    group: typeof group === "number" ? group : undefined,
    block: undefined,
    activations,
  });
}

function groupsOf({ group }: IntegerForm, columns: number): { readonly width: number; readonly count: number } {
  const width = typeof group === "number" ? group : columns;
  return { width, count: columns / width };
}

function listParts(form: IntegerForm, { rows, columns, dtype }: RowWindow["matrix"]): readonly Part[] {
  const { bits, group, symmetric, packed } = form;
  const each = { slices: 1, rows: 1 };
  const { count } = groupsOf(form, columns);
  const scales: Part =
    group === "tensor"
      ? { name: "weight_scale", dtype, shape: [1], along: undefined }
      : { name: "weight_scale", dtype, shape: [rows, count], along: each };
  if (!packed) {
    const codes: Part = { name: "weight", dtype: "I8", shape: [rows, columns], along: each };
    const zeros: Part = { name: "weight_zero_point", dtype: "I8", shape: [rows, count], along: each };
    return symmetric ? [codes, scales] : [codes, scales, zeros];
  }
  const words = packedBytes(columns, bits) / 4;
  const zeroWords = packedBytes(rows, bits) / 4;
  const along = { slices: bits, rows: ROWS_TOGETHER };
  return [
    { name: "weight_packed", dtype: "I32", shape: [rows, words], along: each },
    scales,
    ...(symmetric ? [] : [{ name: "weight_zero_point", dtype: "I32", shape: [zeroWords, count], along } as const]),
    { name: "weight_shape", dtype: "I64", shape: [2], along: undefined },
  ];
}

/** Scale and zero point of a group. */
type GroupRange = { scale: number; zero: number };

function rangeOf(
  { bits, symmetric }: IntegerForm,
  { round, epsilon }: Rounding,
  values: Float32Array,
  first: number,
  count: number,
): GroupRange {
  let [low, high] = [0, 0];
  for (let i = first; i < first + count; i++) {
    const value = values[i] ?? 0;
    if (value < low) low = value;
    else if (value > high) high = value;
  }
  if (symmetric) return { scale: symmetricScale(bits, { round, epsilon }, Math.max(-low, high)), zero: 0 };
  const lowest = -(2 ** (bits - 1));
  const scale = round(round(high - low) / (2 ** bits - 1));
  if (scale === 0) return { scale: epsilon, zero: lowest };
  return { scale, zero: roundEven(clamp(round(lowest - round(low / scale)), lowest, -1 - lowest)) };
}

function symmetricScale(
  bits: number,
  { round, epsilon }: Pick<Rounding, "round" | "epsilon">,
  largest: number,
): number {
  const scale = round(largest / ((2 ** bits - 1) / 2));
  return scale === 0 ? epsilon : scale;
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}

function quantizeWindow(form: IntegerForm, window: RowWindow, largest: number | undefined): void {
  const { bits, group, symmetric, packed } = form;
  const { matrix, count, values } = window;
  const { columns } = matrix;
  const rounding = ROUNDINGS[matrix.dtype];
  const { width, count: groups } = groupsOf(form, columns);
  const rowBytes = packed ? packedBytes(columns, bits) : columns;
  const stored = partOf(window, packed ? "weight_packed" : "weight");
  const scales = viewOf(partOf(window, "weight_scale"));
  const [codes, zeros] = [new Uint8Array(columns), new Int8Array(count * groups)];
  const shared = group === "tensor" ? { scale: symmetricScale(bits, rounding, largest ?? 0), zero: 0 } : undefined;
  const [offset, run] = [packed ? 2 ** (bits - 1) : 0, createRun(width)];
  for (let row = 0; row < count; row++) {
    for (let at = 0; at < groups; at++) {
      const first = row * columns + at * width;
      const range = shared ?? rangeOf(form, rounding, values, first, width);
      encodeGroup(form, rounding, range, { values, first, count: width, codes, at: at * width, offset, run });
      rounding.write(scales, shared === undefined ? row * groups + at : 0, range.scale);
      zeros[row * groups + at] = range.zero;
    }
    const target = stored.subarray(row * rowBytes, (row + 1) * rowBytes);
    if (packed) packBits(codes, columns, bits, target);
    else target.set(codes);
  }
  if (!symmetric) writeZeros(form, window, zeros, groups);
  if (packed) writeShape(window);
}

type GroupCodes = {
  readonly values: Float32Array;
  readonly first: number;
  readonly count: number;
  readonly codes: Uint8Array;
  readonly at: number;
  /** Added to each code. */
  readonly offset: number;
  readonly run: Run;
};

function encodeGroup({ bits }: IntegerForm, rounding: Rounding, range: GroupRange, group: GroupCodes): void {
  const { values, first, count, codes, at, offset, run } = group;
  const { scale, zero } = range;
  const low = -(2 ** (bits - 1));
  const high = -1 - low;
  const quotients = run.values;
  for (let i = 0; i < count; i++) quotients[i] = (values[first + i] ?? 0) / scale;
  rounding.roundRun(run, count);
  if (zero !== 0) {
    for (let i = 0; i < count; i++) quotients[i] = (quotients[i] ?? 0) + zero;
    rounding.roundRun(run, count);
  }
  for (let i = 0; i < count; i++) {
    const quotient = quotients[i] ?? 0;
    codes[at + i] = roundEven(quotient < low ? low : Math.min(quotient, high)) + offset;
  }
}

/** Stores zero points, [rows, groups]. */
export function writeZeros({ bits, packed }: CodeForm, window: RowWindow, zeros: Int8Array, groups: number): void {
  const target = partOf(window, "weight_zero_point");
  if (!packed) {
    target.set(new Uint8Array(zeros.buffer));
    return;
  }
  const codes = new Uint8Array(window.count);
  for (let at = 0; at < groups; at++) {
    for (let row = 0; row < window.count; row++) codes[row] = (zeros[row * groups + at] ?? 0) + 2 ** (bits - 1);
    packColumn({ words: target, stride: groups, column: at }, codes, window.count, bits);
  }
}

/** Zero points, [rows, groups]; zeros where the window has none. */
export function readZeros({ bits, packed }: CodeForm, window: RowWindow, groups: number): Int8Array {
  const zeros = new Int8Array(window.count * groups);
  const source = window.parts.get("weight_zero_point");
  if (source === undefined) return zeros;
  if (!packed) {
    zeros.set(source);
    return zeros;
  }
  const codes = new Uint8Array(window.count);
  for (let at = 0; at < groups; at++) {
    unpackColumn({ words: source, stride: groups, column: at }, window.count, bits, codes);
    for (let row = 0; row < window.count; row++) zeros[row * groups + at] = (codes[row] ?? 0) - 2 ** (bits - 1);
  }
  return zeros;
}

function readLimits(form: IntegerForm, window: RowWindow, low: Float32Array, high: Float32Array): void {
  const { matrix, count } = window;
  const { read } = ROUNDINGS[matrix.dtype];
  const { count: groups } = groupsOf(form, matrix.columns);
  const scales = viewOf(partOf(window, "weight_scale"));
  const zeros = readZeros(form, window, groups);
  const first = -(2 ** (form.bits - 1));
  for (let at = 0; at < count * groups; at++) {
    const [scale, zero] = [read(scales, form.group === "tensor" ? 0 : at), zeros[at] ?? 0];
    setLimits(low, high, at, (first - zero) * scale, (-1 - first - zero) * scale, scale / 2);
  }
}

/** Codes of one row of a window, [columns], as signed integers. */
export function readCodes({ bits, packed }: CodeForm, window: RowWindow, row: number, codes: Int8Array): void {
  const { columns } = window.matrix;
  const rowBytes = packed ? packedBytes(columns, bits) : columns;
  const source = partOf(window, packed ? "weight_packed" : "weight").subarray(row * rowBytes, (row + 1) * rowBytes);
  const bytes = new Uint8Array(codes.buffer, codes.byteOffset, columns);
  if (!packed) {
    bytes.set(source);
    return;
  }
  unpackBits(source, columns, bits, bytes);
  for (let i = 0; i < columns; i++) bytes[i] = (bytes[i] ?? 0) - 2 ** (bits - 1);
}

/** The inverse into words; `codes` are within the width, and become the bytes that are packed. */
export function packCodes({ bits }: Pick<CodeForm, "bits">, window: RowWindow, row: number, codes: Int8Array): void {
  const { columns } = window.matrix;
  const rowBytes = packedBytes(columns, bits);
  const bytes = new Uint8Array(codes.buffer, codes.byteOffset, columns);
  for (let i = 0; i < columns; i++) bytes[i] = (bytes[i] ?? 0) + 2 ** (bits - 1);
  packBits(bytes, columns, bits, partOf(window, "weight_packed").subarray(row * rowBytes, (row + 1) * rowBytes));
}

/** The matrix's own shape, which the words do not tell. */
export function writeShape(window: RowWindow): void {
  const shape = viewOf(partOf(window, "weight_shape"));
  shape.setBigInt64(0, BigInt(window.matrix.rows), true);
  shape.setBigInt64(8, BigInt(window.matrix.columns), true);
}

/** Group of each column, where columns were quantized in another order. Throws QuantizedFolderInvalid. */
function readOrder({ parts, matrix }: RowWindow, groups: number): Int32Array | undefined {
  const stored = parts.get("weight_g_idx");
  if (stored === undefined) return undefined;
  const view = viewOf(stored);
  const order = Int32Array.from({ length: matrix.columns }, (_, i) => view.getInt32(4 * i, true));
  const wrong = order.find((group) => group < 0 || group >= groups);
  if (wrong === undefined) return order;
  const expected = `groups below ${groups}`;
  throw new MergeyardError("QuantizedFolderInvalid", { found: `weight_g_idx ${wrong}`, expected });
}

/** Where columns were quantized in another order, the part `weight_g_idx` names the group of each. */
function dequantizeWindow(form: IntegerForm, window: RowWindow): void {
  const { bits, group, packed } = form;
  const { matrix, count, values } = window;
  const { columns } = matrix;
  const rounding = ROUNDINGS[matrix.dtype];
  const { width, count: groups } = groupsOf(form, columns);
  const rowBytes = packed ? packedBytes(columns, bits) : columns;
  const stored = partOf(window, packed ? "weight_packed" : "weight");
  const scales = viewOf(partOf(window, "weight_scale"));
  const zeros = readZeros(form, window, groups);
  const order = readOrder(window, groups);
  const [codes, offset] = [new Uint8Array(columns), 2 ** (bits - 1)];
  for (let row = 0; row < count; row++) {
    const source = stored.subarray(row * rowBytes, (row + 1) * rowBytes);
    if (packed) unpackBits(source, columns, bits, codes);
    for (let begin = 0; begin < columns; begin += order === undefined ? width : 1) {
      const at = row * groups + (order?.[begin] ?? Math.floor(begin / width));
      const [scale, zero] = [rounding.read(scales, group === "tensor" ? 0 : at), zeros[at] ?? 0];
      const end = order === undefined ? begin + width : begin + 1;
      for (let i = begin; i < end; i++) {
        const code = packed ? (codes[i] ?? 0) - offset : ((source[i] ?? 0) << 24) >> 24;
        values[row * columns + i] = (code - zero) * scale;
      }
    }
  }
}
