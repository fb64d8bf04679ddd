// Golden cases of number formats, of schemes that other tools than compressed-tensors store, and of solvers, each by
// the tolerance that its case states. By the case's scheme.
import * as z from "zod";
import { gptqRow } from "../../core/schemes/gptq.ts";
import { packAwq, packGptqWeights, packGptqZeros } from "../../core/schemes/gptq-packing.ts";
import { factorHessian, sparsify24 } from "../../core/schemes/gptq-solver.ts";
import { hqqPackedRows, packHqq, solveHqq } from "../../core/schemes/hqq.ts";
import { nf4 } from "../../core/schemes/nf4.ts";
import { dequantizeMatrix, quantizeMatrix } from "../../core/schemes/part-matrix.ts";
import { E2M1, E3M4, E4M3, E5M2, encodeFloat, encodeSaturated } from "../../core/schemes/small-floats.ts";
import { sparse24 } from "../../core/schemes/sparse24.ts";
import { type Tensor, valuesOf } from "./tensors.ts";

export type Tensors = ReadonlyMap<string, Tensor>;
export type MoreCase = {
  readonly parameters: unknown;
  readonly inputNames: readonly string[];
  readonly inputs: Tensors;
  readonly expected: Tensors;
};

/** Why a case fails; undefined when it passes. */
type Compare = (entry: MoreCase) => string | undefined;

function take(tensors: Tensors, name: string): Tensor {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`the set has no tensor ${name}`);
  return tensor;
}

/** Values of 32-bit integers, or of bytes. */
function integersOf({ dtype, bytes }: Tensor): ArrayLike<number> {
  return dtype === "I32" ? new Int32Array(new Uint8Array(bytes).buffer) : bytes;
}

function differs(what: string, got: ArrayLike<number>, expected: ArrayLike<number>): string | undefined {
  if (got.length !== expected.length) return `${what}: ${got.length} values, expected ${expected.length}`;
  for (let i = 0; i < got.length; i++) {
    if (got[i] !== expected[i]) return `${what}, value ${i} is ${got[i]}, expected ${expected[i]}`;
  }
  return undefined;
}

/** Share of codes that differ, at most; the rest within one. */
function codesDiffer(got: ArrayLike<number>, expected: ArrayLike<number>, share: number): string | undefined {
  let off = 0;
  for (let i = 0; i < expected.length; i++) {
    const distance = Math.abs((got[i] ?? 0) - (expected[i] ?? 0));
    if (distance > 1) return `code ${i} is ${got[i]}, expected ${expected[i]}`;
    off += distance;
  }
  return off > share * expected.length ? `${off} of ${expected.length} codes differ` : undefined;
}

function relativeDiffers(
  what: string,
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
): string | undefined {
  for (let i = 0; i < expected.length; i++) {
    const [a = 0, b = 0] = [got[i], expected[i]];
    if (!(Math.abs(a - b) <= tolerance * Math.max(Math.abs(b), 1e-30))) return `${what} ${i} is ${a}, expected ${b}`;
  }
  return undefined;
}

const FORMATS = { e4m3fn: E4M3, e5m2: E5M2, e3m4: E3M4, e2m1fn: E2M1 };

const numberFormats: Compare = ({ inputs, expected }) => {
  const x = valuesOf(take(inputs, "x"));
  for (const [name, format] of Object.entries(FORMATS)) {
    const decoded = valuesOf(take(expected, `${name}.decode`));
    const wrong = decoded.findIndex((value, code) => !Object.is(value, format.values[code]) && !Number.isNaN(value));
    if (wrong >= 0) return `${name}: code ${wrong} is ${format.values[wrong]}, expected ${decoded[wrong]}`;
    const [round, saturate] = [take(expected, `${name}.round`).bytes, take(expected, `${name}.saturate`).bytes];
    for (let i = 0; i < x.length; i++) {
      const value = x[i] ?? 0;
      if (Number.isNaN(value)) continue;
      const [plain, clamped] = [encodeFloat(format, value), encodeSaturated(format, value)];
      const isNan = Number.isNaN(format.values[plain] ?? 0) && Number.isNaN(decoded[round[i] ?? 0] ?? 0);
      if (plain !== round[i] && !isNan) return `${name}: ${value} is ${plain}, expected ${round[i]}`;
      if (Number.isFinite(value) && clamped !== saturate[i]) return `${name}: ${value} saturates to ${clamped}`;
    }
  }
  return undefined;
};

const nf4Case: Compare = ({ parameters, inputs, expected }) => {
  const { blocksize } = z.object({ blocksize: z.int() }).parse(parameters);
  const w = take(inputs, "w");
  const [rows = 0, columns = 0] = w.shape;
  const parts = quantizeMatrix(nf4("nf4", blocksize), { rows, columns, dtype: "F32" }, valuesOf(w));
  const [codes, absmax, table] = ["weight", "weight.absmax", "weight.quant_map"].map((n) => parts.get(n) ?? []);
  return (
    differs("codes", codes ?? [], take(expected, "packed").bytes) ??
    differs("absmax", absmax ?? [], take(expected, "absmax").bytes) ??
    differs("table", table ?? [], take(expected, "table").bytes)
  );
};

const hqqCase: Compare = ({ parameters, inputs, expected }) => {
  const schema = z.object({ nbits: z.literal([2, 3, 4, 8]), group_size: z.int(), axis: z.int() });
  const { nbits: bits, group_size: group, axis } = schema.parse(parameters);
  const values = valuesOf(take(inputs, "w"));
  // Of axis 0 groups are the columns of the same numbers as [group, groups].
  const groups = values.length / group;
  const place = (i: number) => (axis === 1 ? i : (i % group) * groups + Math.floor(i / group));
  const grouped = Float32Array.from(values, (_, i) => values[place(i)] ?? 0);
  const { codes, scales, zeros } = solveHqq({ width: group, values: grouped }, bits);
  const q = take(expected, "q");
  const own = new Uint8Array(codes.length);
  for (const [i, code] of codes.entries()) own[place(i)] = code;
  const [rows = 0, width = 0] = q.shape;
  const packed = new Uint8Array((bits === 3 ? 4 : 1) * hqqPackedRows(rows, bits) * width);
  packHqq(q.bytes, { first: 0, rows, width, bits }, packed);
  return (
    codesDiffer(own, q.bytes, 0.005) ??
    relativeDiffers("scale", scales, valuesOf(take(expected, "scale")), 1e-6) ??
    relativeDiffers("zero", zeros, valuesOf(take(expected, "zero")), 1e-4) ??
    differs("packed", packed, take(expected, "packed").bytes)
  );
};

const gptqSchema = z.object({
  bits: z.literal([2, 3, 4, 8]),
  sym: z.boolean(),
  group_size: z.int(),
  act_order: z.boolean(),
  static_groups: z.boolean(),
  output_error: z.number(),
});

const gptqCase: Compare = ({ parameters, inputs, expected }) => {
  const { bits, sym, group_size, act_order, static_groups, output_error } = gptqSchema.parse(parameters);
  const [w, x] = [take(inputs, "w"), take(inputs, "x")];
  const [rows = 0, columns = 0] = w.shape;
  const group = group_size === -1 ? ("row" as const) : group_size;
  const form = { bits, group, symmetric: sym, byActivation: act_order, staticGroups: static_groups };
  const factor = factorHessian({ size: columns, values: valuesOf(take(inputs, "h")) }, act_order);
  if (factor === undefined) return "the Hessian has no factor";
  const groups = group === "row" ? 1 : columns / group;
  const [golden, scales, zeros] = [
    take(expected, "q").bytes,
    valuesOf(take(expected, "scale")),
    take(expected, "zero"),
  ];
  const own = { q: new Uint8Array(w.bytes.length / 4), scale: scales.slice(), zero: new Uint8Array(golden.length) };
  const values = valuesOf(w).slice();
  for (let row = 0; row < rows; row++) {
    const target = {
      codes: own.q.subarray(row * columns, (row + 1) * columns),
      scales: new Float32Array(groups),
      zeros: new Uint8Array(groups),
    };
    gptqRow(form, values.subarray(row * columns, (row + 1) * columns), factor, target);
    for (let column = 0; column < columns; column++) {
      const at = Math.floor((column * groups) / columns);
      own.scale[row * columns + column] = target.scales[at] ?? 0;
      own.zero[row * columns + column] = target.zeros[at] ?? 0;
    }
  }
  const error = outputError(valuesOf(w), values, valuesOf(x), { rows, columns });
  return (
    codesDiffer(own.q, golden, 0.01) ??
    relativeDiffers("scale", own.scale, scales, 1e-4) ??
    codesDiffer(own.zero, zeros.bytes, 0) ??
    (Math.abs(error - output_error) > 0.02 * output_error
      ? `output error ${error}, expected ${output_error}`
      : undefined)
  );
};

/** Sum over inputs x of |(w - q) x|^2, divided by their number as the reference states it. */
function outputError(
  w: Float32Array,
  q: Float32Array,
  x: Float32Array,
  { rows, columns }: { readonly rows: number; readonly columns: number },
): number {
  let sum = 0;
  for (let input = 0; input < x.length; input += columns) {
    for (let row = 0; row < rows; row++) {
      let output = 0;
      for (let i = 0; i < columns; i++) {
        output += ((w[row * columns + i] ?? 0) - (q[row * columns + i] ?? 0)) * (x[input + i] ?? 0);
      }
      sum += output ** 2;
    }
  }
  return sum;
}

const sparseGpt: Compare = ({ inputs, expected }) => {
  const w = take(inputs, "w");
  const [rows = 0, columns = 0] = w.shape;
  const factor = factorHessian({ size: columns, values: valuesOf(take(inputs, "h")) }, false);
  if (factor === undefined) return "the Hessian has no factor";
  const [own, golden] = [valuesOf(w).slice(), valuesOf(take(expected, "w"))];
  for (let row = 0; row < rows; row++) sparsify24(factor, own.subarray(row * columns, (row + 1) * columns));
  let masks = 0;
  for (let i = 0; i < own.length; i++) {
    const [a = 0, b = 0] = [own[i], golden[i]];
    if ((a === 0) !== (b === 0)) masks++;
    else if (Math.abs(a - b) > 1e-3 * Math.abs(b)) return `value ${i} is ${a}, expected ${b}`;
  }
  return masks > 0.01 * own.length ? `${masks} places of the mask differ` : undefined;
};

const packingSchema = z.object({ bits: z.int() });

function packingOf({ parameters, expected }: MoreCase) {
  const { bits } = packingSchema.parse(parameters);
  const [q, zero] = [take(expected, "q"), take(expected, "zero")];
  const [rows = 0, columns = 0] = q.shape;
  const codes = { rows, columns, values: Uint8Array.from(integersOf(q)) };
  const zeros = { rows, columns: zero.shape[1] ?? 0, values: Uint8Array.from(integersOf(zero)) };
  return { bits, codes, zeros };
}

const gptqPacking: Compare = (entry) => {
  const { bits, codes, zeros } = packingOf(entry);
  const { expected } = entry;
  const weights = new Uint8Array(take(expected, "qweight").bytes.length);
  packGptqWeights(codes, bits, 0, weights, codes.rows);
  const pack = (version: 1 | 2) => {
    const words = new Uint8Array(take(expected, "qzeros_v2").bytes.length);
    packGptqZeros(zeros, bits, version, { words, channels: codes.rows, first: 0 });
    return words;
  };
  const older = expected.get("qzeros");
  return (
    differs("qweight", weights, take(expected, "qweight").bytes) ??
    differs("qzeros_v2", pack(2), take(expected, "qzeros_v2").bytes) ??
    (older === undefined ? undefined : differs("qzeros", pack(1), older.bytes))
  );
};

const awqPacking: Compare = (entry) => {
  const { codes, zeros } = packingOf(entry);
  const place = { first: 0, channels: codes.rows };
  const pack = (from: typeof codes, name: string) => {
    const words = new Uint8Array(take(entry.expected, name).bytes.length);
    packAwq(from, place, words);
    return differs(name, words, take(entry.expected, name).bytes);
  };
  return pack(codes, "qweight") ?? pack(zeros, "qzeros");
};

/** Where two magnitudes of a four tie at the boundary, either may stay: such fours are compared by magnitude alone. */
const bitmask: Compare = ({ inputNames, inputs, expected }) => {
  for (const input of inputNames) {
    const [w, name] = [take(inputs, input), input.replace(/^w\./, "")];
    const [rows = 0, columns = 0] = w.shape;
    const matrix = { rows, columns, dtype: "F32" } as const;
    const parts = quantizeMatrix(sparse24, matrix, valuesOf(w));
    const golden = new Map([...parts.keys()].map((part) => [part, take(expected, `${name}.${part}`).bytes]));
    const [own, theirs] = [dequantizeMatrix(sparse24, matrix, parts), dequantizeMatrix(sparse24, matrix, golden)];
    const why =
      differs(`${input}: the dense values`, theirs, valuesOf(take(expected, `${name}.dense`))) ??
      differs(`${input}: shape`, parts.get("shape") ?? [], golden.get("shape") ?? []) ??
      foursDiffer(own, theirs);
    if (why !== undefined) return `${input}: ${why}`;
  }
  return undefined;
};

function foursDiffer(own: Float32Array, golden: Float32Array): string | undefined {
  for (let first = 0; first < own.length; first += 4) {
    const [a, b] = [own.subarray(first, first + 4), golden.subarray(first, first + 4)];
    if (a.every((value, i) => value === b[i])) continue;
    const [mine, theirs] = [a, b].map((four) => [...four].map(Math.abs).sort((x, y) => x - y));
    if (mine?.join() !== theirs?.join()) return `values ${first} to ${first + 3} are ${a}, expected ${b}`;
  }
  return undefined;
}

/** By the scheme of a case. */
export const MORE_SCHEMES: ReadonlyMap<string, Compare> = new Map([
  ["fp8/fp4 codes", numberFormats],
  ["nf4", nf4Case],
  ["hqq", hqqCase],
  ["gptq", gptqCase],
  ["sparsegpt", sparseGpt],
  ["gptq packing", gptqPacking],
  ["awq packing (gemm)", awqPacking],
  ["sparse-24-bitmask", bitmask],
]);
