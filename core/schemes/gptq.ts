// Integers as GPTQ checkpoints hold them, rounded with the Hessian of the layer's inputs where there is one, else to
// the nearest.
// Source: GPTQ, arXiv:2210.17323; quantization reference section 5.
import { viewOf } from "../data-view.ts";
import { MergeyardError } from "../error.ts";
import type { GptqFolder } from "./folder-form.ts";
import { type Codes, packGptqWeights, packGptqZeros, unpackGptqWeights, unpackGptqZeros } from "./gptq-packing.ts";
import { factorHessian, type HessianFactor, solveRow } from "./gptq-solver.ts";
import { setLimits } from "./limits.ts";
import { roundEven } from "./rounding.ts";
import { type Matrix, type Part, type PartScheme, partOf, type RowWindow, type StoredScheme } from "./scheme.ts";

const f = Math.fround;

export type GptqForm = {
  readonly bits: 2 | 3 | 4 | 8;
  readonly group: number | "row";
  readonly symmetric: boolean;
  /** Columns that see the largest inputs are rounded first. */
  readonly byActivation: boolean;
  /** Scales of groups come from the weights as they were; false: as they are when their turn comes. */
  readonly staticGroups: boolean;
};

/** A rounded row: codes by column, scale and zero point by group. */
export type GptqRow = { readonly codes: Uint8Array; readonly scales: Float32Array; readonly zeros: Uint8Array };

/** Columns after which scales of groups see what has been passed on so far, as the original's blocks have it. */
const BLOCK = 128;

/** q = round(x / scale) + zero; the range always holds zero, and of a symmetric one zero is the middle code. */
function findRange({ bits, symmetric }: GptqForm, values: ArrayLike<number>, first: number, count: number) {
  let [low, high] = [0, 0];
  for (let i = first; i < first + count; i++) {
    low = Math.min(low, values[i] ?? 0);
    high = Math.max(high, values[i] ?? 0);
  }
  if (symmetric) {
    high = Math.max(-low, high);
    low = -high;
  }
  if (low === 0 && high === 0) [low, high] = [-1, 1];
  const scale = f(f(f(high) - f(low)) / (2 ** bits - 1));
  return { scale, zero: symmetric ? 2 ** (bits - 1) : roundEven(f(-low / scale)) };
}

/** Group of the column that comes at a place. */
function groupOf(form: GptqForm, factor: HessianFactor | undefined, place: number): number {
  if (form.group === "row") return 0;
  const column = form.staticGroups ? (factor?.order[place] ?? place) : place;
  return Math.floor(column / form.group);
}

/** Rounds one row to the nearest; `row` becomes the values that its codes stand for. */
function roundRow(form: GptqForm, row: Float32Array, { codes, scales, zeros }: GptqRow): void {
  const width = form.group === "row" ? row.length : form.group;
  const most = 2 ** form.bits - 1;
  for (let at = 0; at < scales.length; at++) {
    const { scale, zero } = findRange(form, row, at * width, width);
    scales[at] = scale;
    zeros[at] = zero;
    for (let i = at * width; i < (at + 1) * width; i++) {
      const code = Math.min(Math.max(roundEven(f((row[i] ?? 0) / scale)) + zero, 0), most);
      codes[i] = code;
      row[i] = scale * (code - zero);
    }
  }
}

/** Rounds one row; `row` becomes the values that its codes stand for. `factor` undefined: to the nearest. */
export function gptqRow(form: GptqForm, row: Float32Array, factor: HessianFactor | undefined, target: GptqRow): void {
  if (factor === undefined) {
    roundRow(form, row, target);
    return;
  }
  const { codes, scales, zeros } = target;
  const { bits, group } = form;
  const width = group === "row" ? row.length : group;
  const isFixed = form.staticGroups || group === "row";
  const setRange = (at: number, values: ArrayLike<number>): void => {
    const { scale, zero } = findRange(form, values, at * width, width);
    scales[at] = scale;
    zeros[at] = zero;
  };
  const quantize = (value: number, at: number, column: number): number => {
    const [scale, zero] = [scales[at] ?? 1, zeros[at] ?? 0];
    const code = Math.min(Math.max(roundEven(f(f(value) / scale)) + zero, 0), 2 ** bits - 1);
    codes[column] = code;
    return f(scale * (code - zero));
  };
  if (isFixed) {
    const seen = group === "row" ? row : row.map((value, column) => (factor.dead[column] === 1 ? 0 : value));
    for (let at = 0; at < scales.length; at++) setRange(at, seen);
  }
  const passed = new Float64Array(row.length);
  solveRow(factor, row, (work, place) => {
    if (place % BLOCK === 0) passed.set(work);
    const at = groupOf(form, factor, place);
    if (!isFixed && place % width === 0) setRange(at, passed);
    return quantize(work[place] ?? 0, at, factor.order[place] ?? 0);
  });
}

/** One factor for all windows of a tensor. */
const factors = new WeakMap<Float32Array, Map<boolean, HessianFactor>>();

/** Throws QuantizeHessianInvalid for one of another size, or that no damping makes positive definite. */
function factorOf(
  { byActivation }: GptqForm,
  hessian: Float32Array | undefined,
  size: number,
): HessianFactor | undefined {
  if (hessian === undefined) return undefined;
  const refuse = (found: string, expected: string) => new MergeyardError("QuantizeHessianInvalid", { found, expected });
  if (hessian.length !== size * size) throw refuse(`${hessian.length} values`, `[${size}, ${size}]`);
  const known = factors.get(hessian) ?? new Map<boolean, HessianFactor>();
  factors.set(hessian, known);
  const factor = known.get(byActivation) ?? factorHessian({ size, values: hessian }, byActivation);
  if (factor === undefined) throw refuse("no inverse, even with much damping", "a positive definite matrix");
  known.set(byActivation, factor);
  return factor;
}

/** Rows whose packed zero points fill whole words. */
const ROWS_TOGETHER = 32;

function listParts({ bits, group }: Pick<GptqForm, "bits" | "group">, { rows, columns }: Matrix): readonly Part[] {
  const groups = group === "row" ? 1 : columns / group;
  return [
    { name: "qweight", dtype: "I32", shape: [(columns * bits) / 32, rows], along: undefined },
    { name: "scales", dtype: "F16", shape: [groups, rows], along: undefined },
    { name: "qzeros", dtype: "I32", shape: [groups, Math.ceil((rows * bits) / 32)], along: undefined },
    { name: "g_idx", dtype: "I32", shape: [columns], along: undefined },
  ];
}

/** What checkpoints of any version hold, columns in any order; `dequantize` throws QuantizedFolderInvalid. */
export function storedGptq({ bits, version, ...form }: GptqFolder): StoredScheme {
  const group = form.group ?? "row";
  return Object.freeze({
    id: `gptq${bits}`,
    title: `GPTQ, version ${version}`,
    needs: "row",
    columnUnit: group === "row" ? 32 : group,
    rowsTogether: () => ROWS_TOGETHER,
    parts: (matrix) => listParts({ bits, group }, matrix),
    dequantize: (window) => dequantizeWindow(bits, version, window),
  } satisfies StoredScheme);
}

/** A scheme of checkpoints of version 1, whose zero points are stored minus one. */
export function gptq(id: string, title: string, form: GptqForm): PartScheme {
  const { bits, group } = form;
  return Object.freeze({
    id,
    title,
    source: "GPTQ, arXiv:2210.17323; AutoGPTQ checkpoints, version 1",
    needs: "row",
    measures: "nothing",
    hessian: "optional",
    form: { container: "gptq", bits, group: group === "row" ? undefined : group, version: 1 },
    columnUnit: group === "row" ? 32 : group,
    rowsTogether: () => ROWS_TOGETHER,
    parts: (matrix) => listParts(form, matrix),
    quantize: (window, { hessian }) => quantizeWindow(form, window, factorOf(form, hessian, window.matrix.columns)),
    dequantize: (window) => dequantizeWindow(bits, 1, window),
    limits: {
      width: (columns) => (group === "row" ? columns : group),
      read: (window, low, high) => readLimits(form, window, low, high),
    },
  } satisfies PartScheme);
}

function quantizeWindow(form: GptqForm, window: RowWindow, factor: HessianFactor | undefined): void {
  const { matrix, first, count, values } = window;
  const { columns, rows } = matrix;
  const groups = form.group === "row" ? 1 : columns / form.group;
  const codes: Codes = { rows: count, columns, values: new Uint8Array(count * columns) };
  const zeros: Codes = { rows: count, columns: groups, values: new Uint8Array(count * groups) };
  const scales = viewOf(partOf(window, "scales"));
  for (let row = 0; row < count; row++) {
    const target = {
      codes: codes.values.subarray(row * columns, (row + 1) * columns),
      scales: new Float32Array(groups),
      zeros: zeros.values.subarray(row * groups, (row + 1) * groups),
    };
    gptqRow(form, values.slice(row * columns, (row + 1) * columns), factor, target);
    target.scales.forEach((scale, at) => void scales.setFloat16(2 * (at * rows + first + row), scale, true));
  }
  packGptqWeights(codes, form.bits, first, partOf(window, "qweight"), rows);
  packGptqZeros(zeros, form.bits, 1, { words: partOf(window, "qzeros"), channels: rows, first });
  const index = viewOf(partOf(window, "g_idx"));
  for (let place = 0; place < columns; place++) {
    index.setInt32(4 * (factor?.order[place] ?? place), groupOf(form, factor, place), true);
  }
}

/** Of groups in the order of their columns. */
function readLimits(form: GptqForm, window: RowWindow, low: Float32Array, high: Float32Array): void {
  const { matrix, first, count } = window;
  const scales = viewOf(partOf(window, "scales"));
  const groups = scales.byteLength / 2 / matrix.rows;
  const zeros: Codes = { rows: count, columns: groups, values: new Uint8Array(count * groups) };
  unpackGptqZeros({ words: partOf(window, "qzeros"), channels: matrix.rows, first }, form.bits, 1, zeros);
  for (let i = 0; i < count * groups; i++) {
    const scale = scales.getFloat16(2 * ((i % groups) * matrix.rows + first + Math.floor(i / groups)), true);
    const zero = zeros.values[i] ?? 0;
    setLimits(low, high, i, -zero * scale, (2 ** form.bits - 1 - zero) * scale, scale / 2);
  }
}

function dequantizeWindow(bits: number, version: 1 | 2, window: RowWindow): void {
  const { matrix, first, count, values } = window;
  const { columns, rows } = matrix;
  const scales = viewOf(partOf(window, "scales"));
  const index = viewOf(partOf(window, "g_idx"));
  const groups = scales.byteLength / 2 / rows;
  const codes: Codes = { rows: count, columns, values: new Uint8Array(count * columns) };
  const zeros: Codes = { rows: count, columns: groups, values: new Uint8Array(count * groups) };
  unpackGptqWeights(partOf(window, "qweight"), rows, bits, first, codes);
  unpackGptqZeros({ words: partOf(window, "qzeros"), channels: rows, first }, bits, version, zeros);
  const order = Int32Array.from({ length: columns }, (_, i) => index.getInt32(4 * i, true));
  const wrong = order.find((group) => group < 0 || group >= groups);
  if (wrong !== undefined) {
    throw new MergeyardError("QuantizedFolderInvalid", { found: `g_idx ${wrong}`, expected: `groups below ${groups}` });
  }
  const rowScales = new Float32Array(groups);
  for (let row = 0; row < count; row++) {
    for (let at = 0; at < groups; at++) rowScales[at] = scales.getFloat16(2 * (at * rows + first + row), true);
    const [begin, zero] = [row * columns, row * groups];
    for (let column = 0; column < columns; column++) {
      const group = order[column] ?? 0;
      const code = (codes.values[begin + column] ?? 0) - (zeros.values[zero + group] ?? 0);
      values[begin + column] = code * (rowScales[group] ?? 0);
    }
  }
}
