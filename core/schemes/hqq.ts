// HQQ: integers under a scale and a real zero point for a group, the zero point fitted so that outliers weigh less.
// Needs no calibration data.
// Source: HQQ, https://mobiusml.github.io/hqq_blog; quantization reference section 7.
import { viewOf } from "../data-view.ts";
import { FLOAT_NAMES } from "../ops/cast.ts";
import type { Dtype, Shape } from "../tensor.ts";
import { nearestWithin } from "./bits.ts";
import type { HqqFolder } from "./folder-form.ts";
import { setLimits } from "./limits.ts";
import { ROUNDINGS } from "./rounding.ts";
import { type Matrix, type Part, type PartScheme, partOf, type RowWindow, type StoredScheme } from "./scheme.ts";

const f = Math.fround;

/** Rounds of fitting at most, the norm's exponent, the weight of the penalty and its growth. */
const ROUNDS = 20;
const NORM = 0.7;
const BETA = 10;
const KAPPA = 1.01;
/** A range this small takes the scale 1; no inverse scale is larger than this. */
const RANGE_MIN = 1e-4;
const INVERSE_MAX = 2e4;

export type HqqBits = 2 | 3 | 4 | 8;

/** Groups of values: [groups, width], row-major. */
export type HqqGroups = { readonly width: number; readonly values: Float32Array };

/** Codes like the values; scale and zero point of each group: x ~ (q - zero) scale. */
export type HqqCodes = { readonly codes: Uint8Array; readonly scales: Float32Array; readonly zeros: Float32Array };

/** Fits and rounds. The number of rounds depends on the mean error of all groups together. */
export function solveHqq({ width, values }: HqqGroups, bits: HqqBits): HqqCodes {
  const count = values.length / width;
  const most = 2 ** bits - 1;
  const [inverses, zeros] = [new Float32Array(count), new Float32Array(count)];
  for (let group = 0; group < count; group++) {
    let [low, high] = [Infinity, -Infinity];
    for (let i = group * width; i < (group + 1) * width; i++) {
      low = Math.min(low, values[i] ?? 0);
      high = Math.max(high, values[i] ?? 0);
    }
    const range = f(high - low);
    const inverse = range <= RANGE_MIN ? 1 : Math.min(f(most / range), INVERSE_MAX);
    inverses[group] = inverse;
    zeros[group] = f(-low * inverse);
  }
  const grid = { width, values, inverses, zeros, most };
  let [best, beta] = [Infinity, BETA];
  for (let round = 0; round < ROUNDS; round++) {
    const error = fitZeros(grid, beta);
    if (!(error < best)) break;
    best = error;
    beta *= KAPPA;
  }
  const codes = new Uint8Array(values.length);
  for (let group = 0; group < count; group++) {
    const [inverse, zero] = [inverses[group] ?? 1, zeros[group] ?? 0];
    for (let i = group * width; i < (group + 1) * width; i++) codes[i] = codeOf(values[i] ?? 0, inverse, zero, most);
  }
  return { codes, scales: inverses.map((inverse) => f(1 / inverse)), zeros };
}

type Grid = HqqGroups & { readonly inverses: Float32Array; readonly zeros: Float32Array; readonly most: number };

function codeOf(value: number, inverse: number, zero: number, most: number): number {
  return nearestWithin(f(f(value * inverse) + zero), 0, most);
}

/** Moves every zero point to the mean that its shrunken errors ask for; returns the mean error before. */
function fitZeros(grid: Grid, beta: number): number {
  const { width, values, inverses, zeros, most } = grid;
  const least = leastKept(beta);
  let total = 0;
  for (let group = 0; group < inverses.length; group++) {
    const [inverse, zero] = [inverses[group] ?? 1, zeros[group] ?? 0];
    let sum = 0;
    for (let i = group * width; i < (group + 1) * width; i++) {
      const value = values[i] ?? 0;
      const code = codeOf(value, inverse, zero, most);
      const lost = f(value - f(f(code - zero) / inverse));
      total += Math.abs(lost);
      const kept = Math.abs(lost) < least ? value : f(value - shrink(lost, beta));
      sum += code - f(kept * inverse);
    }
    zeros[group] = f(sum / width);
  }
  return total / values.length;
}

/** Errors below shrink to nothing, |t|^(2 - p) < 1 / beta: almost all do, and need no power. */
function leastKept(beta: number): number {
  return beta ** (1 / (NORM - 2)) * (1 - 2 ** -20);
}

/** sign(t) max(0, |t| - |t|^(p - 1) / beta); zero at zero. */
function shrink(value: number, beta: number): number {
  const size = Math.abs(value);
  return f(Math.sign(value) * Math.max(0, size - (size === 0 ? Infinity : size ** (NORM - 1)) / beta));
}

/** Codes in one stored value, and the bits of the first: earlier rows of the grouped matrix stand higher. */
const PACKING = { 8: 1, 4: 2, 3: 10, 2: 4 } as const;

/** Rows of the packed matrix for `rows` rows of codes. */
export function hqqPackedRows(rows: number, bits: HqqBits): number {
  return Math.ceil(rows / PACKING[bits]);
}

/** Where codes stand in their tensor: rows of `width`, from row `first` of `rows`. */
type HqqPlace = { readonly first: number; readonly rows: number; readonly width: number; readonly bits: HqqBits };

/**
 * Packs codes of [rows, width]: byte (word, for 3 bits) [r, c] holds rows r, r + R, r + 2 R and so on, R the packed
 * rows, the first one highest. `target` starts as zeros.
 */
export function packHqq(codes: Uint8Array, place: HqqPlace, target: Uint8Array): void {
  const [view, { width, bits }] = [viewOf(target), place];
  forEachRow(codes, place, (from, to, shift) => {
    for (let i = 0; i < width; i++) {
      const code = (codes[from + i] ?? 0) << shift;
      if (bits === 3) view.setInt32(4 * (to + i), view.getInt32(4 * (to + i), true) | code, true);
      else target[to + i] = (target[to + i] ?? 0) | code;
    }
  });
}

function unpackHqq(source: Uint8Array, place: HqqPlace, codes: Uint8Array): void {
  const [view, { width, bits }] = [viewOf(source), place];
  const mask = 2 ** bits - 1;
  forEachRow(codes, place, (from, to, shift) => {
    for (let i = 0; i < width; i++) {
      codes[from + i] = ((bits === 3 ? view.getInt32(4 * (to + i), true) : (source[to + i] ?? 0)) >> shift) & mask;
    }
  });
}

/** Rows of codes: the first one, the first packed value, and how far up it stands there. */
function forEachRow(
  codes: Uint8Array,
  { first, rows, width, bits }: HqqPlace,
  visit: (from: number, to: number, shift: number) => void,
): void {
  const packedRows = hqqPackedRows(rows, bits);
  for (let from = 0; from < codes.length; from += width) {
    const row = first + from / width;
    visit(from, (row % packedRows) * width, bits * (PACKING[bits] - 1 - Math.floor(row / packedRows)));
  }
}

/** Elements that are fitted together, when the tensor has more: bounds memory, and is part of what the bytes are. */
const TOGETHER_ELEMENTS = 1 << 22;

/**
 * Groups along the rows. The original watches the mean error of the whole tensor; here each run of rows of about 4
 * million elements stops by itself, so that memory stays bounded.
 */
export function hqq(id: string, bits: HqqBits, group: number): PartScheme {
  const form = { container: "hqq", bits, group, stored: "F32" } as const;
  return Object.freeze({
    id,
    title: `${bits}-bit integers, scale and real zero point for ${group}, fitted (HQQ)`,
    source: "hqq, core/quantize.py: HQQLinear.state_dict",
    needs: "row",
    measures: "nothing",
    hessian: "ignored",
    form,
    columnUnit: group,
    rowsTogether: (columns) => Math.max(1, Math.floor(TOGETHER_ELEMENTS / columns)),
    parts: (matrix) => [...listParts(form, matrix), ...describeModule(form, matrix)],
    quantize(window) {
      const { codes, scales, zeros } = solveHqq({ width: group, values: window.values }, bits);
      packHqq(codes, placeOf(window, bits, group), partOf(window, "W_q"));
      const [scaleView, zeroView] = [viewOf(partOf(window, "scale")), viewOf(partOf(window, "zero"))];
      scales.forEach((scale, at) => void scaleView.setFloat32(4 * at, scale, true));
      zeros.forEach((zero, at) => void zeroView.setFloat32(4 * at, zero, true));
      for (const { name, known } of describeModule(form, window.matrix)) partOf(window, name).set(known);
    },
    dequantize: (window) => dequantizeWindow(form, window),
    limits: {
      width: () => group,
      read(window, low, high) {
        const [scales, zeros] = [viewOf(partOf(window, "scale")), viewOf(partOf(window, "zero"))];
        for (let at = 0; 4 * at < scales.byteLength; at++) {
          const [scale, zero] = [scales.getFloat32(4 * at, true), zeros.getFloat32(4 * at, true)];
          setLimits(low, high, at, -zero * scale, (2 ** bits - 1 - zero) * scale, scale / 2);
        }
      },
    },
  } satisfies PartScheme);
}

/** What modules of hqq's own folders hold: scales and zero points of any float dtype. */
export function storedHqq(form: HqqFolder): StoredScheme {
  return Object.freeze({
    id: `hqq${form.bits}`,
    title: `hqq, ${form.bits} bits, scale and zero point for ${form.group}`,
    needs: "row",
    columnUnit: form.axis === 0 ? 1 : form.group,
    rowsTogether: () => 1,
    parts: (matrix) => listParts(form, matrix),
    dequantize: (window) => (form.axis === 0 ? dequantizeColumns : dequantizeWindow)(form, window),
  } satisfies StoredScheme);
}

function listParts({ bits, group, stored, axis }: HqqFolder, { rows, columns }: Matrix): readonly Part[] {
  const groups = (rows * columns) / group;
  const dtype = bits === 3 ? "I32" : "U8";
  if (axis === 0) {
    return [
      { name: "W_q", dtype, shape: [hqqPackedRows(group, bits), groups], along: undefined },
      { name: "scale", dtype: stored, shape: [1, groups], along: undefined },
      { name: "zero", dtype: stored, shape: [1, groups], along: undefined },
    ];
  }
  const along = { slices: columns / group, rows: 1 };
  return [
    { name: "W_q", dtype, shape: [hqqPackedRows(groups, bits), group], along: undefined },
    { name: "scale", dtype: stored, shape: [groups, 1], along },
    { name: "zero", dtype: stored, shape: [groups, 1], along },
  ];
}

function dequantizeWindow({ bits, group, stored }: HqqFolder, window: RowWindow): void {
  const codes = new Uint8Array(window.values.length);
  unpackHqq(partOf(window, "W_q"), placeOf(window, bits, group), codes);
  const [scales, zeros] = [viewOf(partOf(window, "scale")), viewOf(partOf(window, "zero"))];
  const { read } = ROUNDINGS[stored];
  for (let first = 0; first < codes.length; first += group) {
    const [zero, scale] = [read(zeros, first / group), read(scales, first / group)];
    for (let i = first; i < first + group; i++) window.values[i] = f(f((codes[i] ?? 0) - zero) * scale);
  }
}

/** Value k of the flat matrix is in row k / n and column k mod n of [group, n], whose columns are groups. */
function dequantizeColumns({ bits, group, stored }: HqqFolder, window: RowWindow): void {
  const { matrix, first, values } = window;
  const groups = (matrix.rows * matrix.columns) / group;
  const [packed, packedRows, mask] = [viewOf(partOf(window, "W_q")), hqqPackedRows(group, bits), 2 ** bits - 1];
  const [scales, zeros] = [viewOf(partOf(window, "scale")), viewOf(partOf(window, "zero"))];
  const { read } = ROUNDINGS[stored];
  for (let i = 0; i < values.length; i++) {
    const flat = first * matrix.columns + i;
    const [row, at] = [Math.floor(flat / groups), flat % groups];
    const place = (row % packedRows) * groups + at;
    const shift = bits * (PACKING[bits] - 1 - Math.floor(row / packedRows));
    const code = ((bits === 3 ? packed.getInt32(4 * place, true) : packed.getUint8(place)) >> shift) & mask;
    values[i] = f(f(code - read(zeros, at)) * read(scales, at));
  }
}

/** Names of layouts in hqq, by bits; what a module's codes are seen as. */
export const HQQ_PACKINGS = { 8: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8" } as const;

type Described = Part & { readonly known: Uint8Array };

/** What a module says of itself: hqq stores every field as a tensor, texts as their characters. */
function describeModule({ bits, group }: HqqFolder, { rows, columns, dtype }: Matrix): readonly Described[] {
  const field = (name: string, dtype: Dtype, shape: Shape, known: Uint8Array): Described => {
    return { name, dtype, shape, along: undefined, known };
  };
  const number = (name: string, value: number) => field(name, "I32", [], new Uint8Array(Int32Array.of(value).buffer));
  const flag = (name: string, value: boolean) => field(name, "U8", [], Uint8Array.of(value ? 1 : 0));
  const text = (name: string, value: string) => field(name, "U8", [value.length], new TextEncoder().encode(value));
  const shape = new Uint8Array(BigInt64Array.of(BigInt(rows), BigInt(columns)).buffer);
  return [
    field("shape", "I64", [2], shape),
    number("nbits", bits),
    number("group_size", group),
    number("axis", 1),
    text("packing", HQQ_PACKINGS[bits]),
    text("unpack_view_dtype", bits === 3 ? "torch.int32" : "torch.uint8"),
    text("compute_dtype", `torch.${FLOAT_NAMES[dtype]}`),
    ...["view_as_float", "quant_scale", "quant_zero", "round_zero", "offload_meta"].map((name) => flag(name, false)),
    ...["channel_wise", "optimize", "encoded_state_dict", "stores_quant_config"].map((name) => flag(name, true)),
  ];
}

function placeOf({ matrix, first }: RowWindow, bits: HqqBits, group: number) {
  const groups = matrix.columns / group;
  return { first: first * groups, rows: matrix.rows * groups, width: group, bits };
}
