// NF4: 4-bit codes into a table of normal quantiles, one float32 scale for a block of the flat tensor. What
// bitsandbytes stores and transformers loads.
// Source: QLoRA, arXiv:2305.14314; bitsandbytes; quantization reference section 8.
import { viewOf } from "../data-view.ts";
import { FLOAT_NAMES } from "../ops/cast.ts";
import type { BitsandbytesFolder } from "./folder-form.ts";
import { largestOf } from "./rounding.ts";
import { type Matrix, type Part, type PartScheme, partOf, type RowWindow, type StoredScheme } from "./scheme.ts";

const f = Math.fround;

/** Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero. */
const TABLE = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);
const MIDPOINTS = Float32Array.from({ length: 15 }, (_, i) => f(f((TABLE[i] ?? 0) + (TABLE[i + 1] ?? 0)) / 2));
const ZERO_CODE = 7;

/** Midpoints strictly below a value in [-1, 1]: on a midpoint, the lower code. */
function codeOf(value: number): number {
  let [low, high] = [0, 15];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((MIDPOINTS[middle] ?? 1) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Blocks of `block` values in row-major order; two codes a byte, the first in the high nibble; x ~ T[code] absmax. */
export function nf4(id: string, block: number): PartScheme {
  return Object.freeze({
    id,
    title: `4-bit normal quantiles, scale for ${block} (NF4)`,
    source: "bitsandbytes; QLoRA, arXiv:2305.14314",
    needs: "stream",
    measures: "nothing",
    hessian: "ignored",
    form: { container: "bitsandbytes", block },
    columnUnit: 1,
    rowsTogether: (columns) => rowsOfBlocks(block, columns),
    parts: (matrix) => [...listParts(matrix, block, "F32"), ...describeModule(matrix, block)],
    quantize(window) {
      const [codes, scales] = [partOf(window, "weight"), viewOf(partOf(window, "weight.absmax"))];
      const { values } = window;
      writeTable(window, block);
      codes.fill(0);
      forEachBlock(window, block, (first, count, at) => {
        const absmax = largestOf(values, first, count);
        scales.setFloat32(4 * at, absmax, true);
        const inverse = f(1 / absmax);
        for (let i = first; i < first + count; i++) {
          const code = absmax === 0 ? ZERO_CODE : codeOf(f((values[i] ?? 0) * inverse));
          codes[i >> 1] = (codes[i >> 1] ?? 0) | (code << (4 * (1 - (i & 1))));
        }
      });
    },
    dequantize(window) {
      const [codes, scales] = [partOf(window, "weight"), viewOf(partOf(window, "weight.absmax"))];
      forEachBlock(window, block, (first, count, at) => {
        const absmax = scales.getFloat32(4 * at, true);
        for (let i = first; i < first + count; i++) {
          const code = ((codes[i >> 1] ?? 0) >> (4 * (1 - (i & 1)))) & 15;
          window.values[i] = f((TABLE[code] ?? 0) * absmax);
        }
      });
    },
    limits: undefined,
  } satisfies PartScheme);
}

/** The table, and what the loader reads of the module. */
export function writeTable(window: RowWindow, block: number): void {
  for (const { name, known } of describeModule(window.matrix, block)) partOf(window, name).set(known);
}

/** The weights, by either table of bitsandbytes: what is read is the one that the module stores. */
export function storedBitsandbytes({ block, nested }: BitsandbytesFolder): StoredScheme {
  return Object.freeze({
    id: "bitsandbytes4",
    title: `bitsandbytes, 4 bits, scale for ${block}`,
    needs: "stream",
    columnUnit: 1,
    rowsTogether: (columns) => rowsOfBlocks(block, columns),
    parts(matrix) {
      const own = [...listParts(matrix, block, nested === undefined ? "F32" : "U8"), TABLE_PART];
      if (nested === undefined) return own;
      const scales = Math.ceil((matrix.rows * matrix.columns) / block);
      return [
        ...own,
        { name: NESTED_SCALES, dtype: "F32", shape: [Math.ceil(scales / nested.block)], along: undefined },
        { name: NESTED_TABLE, dtype: "F32", shape: [256], along: undefined },
      ];
    },
    dequantize(window) {
      const [codes, table] = [partOf(window, "weight"), viewOf(partOf(window, TABLE_PART.name))];
      const scaleOf = readScales(window, block, nested);
      forEachBlock(window, block, (first, count, at) => {
        const absmax = scaleOf(at);
        for (let i = first; i < first + count; i++) {
          const code = ((codes[i >> 1] ?? 0) >> (4 * (1 - (i & 1)))) & 15;
          window.values[i] = f(table.getFloat32(4 * code, true) * absmax);
        }
      });
    },
  } satisfies StoredScheme);
}

const NESTED_SCALES = "weight.nested_absmax";
const NESTED_TABLE = "weight.nested_quant_map";

/** Scales of the window's blocks, by their place in it. */
function readScales(window: RowWindow, block: number, nested: BitsandbytesFolder["nested"]): (at: number) => number {
  const stored = partOf(window, "weight.absmax");
  const view = viewOf(stored);
  if (nested === undefined) return (at) => view.getFloat32(4 * at, true);
  const [scales, table] = [viewOf(partOf(window, NESTED_SCALES)), viewOf(partOf(window, NESTED_TABLE))];
  const before = (window.first * window.matrix.columns) / block;
  return (at) => {
    const scale = scales.getFloat32(4 * Math.floor((before + at) / nested.block), true);
    return f(f(table.getFloat32(4 * (stored[at] ?? 0), true) * scale) + nested.offset);
  };
}

function listParts(matrix: Matrix, block: number, scales: "F32" | "U8"): readonly Part[] {
  const [rows, count] = [rowsOfBlocks(block, matrix.columns), matrix.rows * matrix.columns];
  const along = (each: number) => ({ rows, slices: (rows * matrix.columns) / each });
  return [
    { name: "weight", dtype: "U8", shape: [Math.ceil(count / 2), 1], along: along(2) },
    { name: "weight.absmax", dtype: scales, shape: [Math.ceil(count / block)], along: along(block) },
  ];
}

const TABLE_PART = { name: "weight.quant_map", dtype: "F32", shape: [TABLE.length], along: undefined } as const;

/** The table, and the JSON that the loader reads. */
function describeModule(matrix: Matrix, block: number): readonly (Part & { readonly known: Uint8Array })[] {
  const table = new Uint8Array(4 * TABLE.length);
  const view = viewOf(table);
  TABLE.forEach((value, code) => void view.setFloat32(4 * code, value, true));
  const state = describeState(matrix, block);
  const name = "weight.quant_state.bitsandbytes__nf4";
  return [
    { ...TABLE_PART, known: table },
    { name, dtype: "U8", shape: [state.length], along: undefined, known: state },
  ];
}

/** The fewest rows that hold whole blocks. */
function rowsOfBlocks(block: number, columns: number): number {
  return block / greatestDivisor(block, columns);
}

/** The JSON that the loader reads, as bytes. */
function describeState({ rows, columns, dtype }: Matrix, block: number): Uint8Array {
  const state = { quant_type: "nf4", blocksize: block, dtype: FLOAT_NAMES[dtype], shape: [rows, columns] };
  return new TextEncoder().encode(JSON.stringify(state));
}

function forEachBlock(
  { values }: RowWindow,
  block: number,
  visit: (first: number, count: number, at: number) => void,
): void {
  for (let at = 0; at * block < values.length; at++) visit(at * block, Math.min(block, values.length - at * block), at);
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
