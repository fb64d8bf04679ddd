// 4-bit integers as AWQ checkpoints hold them ("gemm" layout), rounded to the nearest. AWQ itself scales the weights by
// the activations' size before; what is stored is the same.
// Source: AWQ, arXiv:2306.00978; AutoAWQ; quantization reference section 6.
import { viewOf } from "../data-view.ts";
import type { AwqFolder } from "./folder-form.ts";
import { type Codes, packAwq, unpackAwq } from "./gptq-packing.ts";
import { setLimits } from "./limits.ts";
import { roundEven } from "./rounding.ts";
import { type PartScheme, partOf, type RowWindow, type StoredScheme } from "./scheme.ts";

const f = Math.fround;
const MOST = 15;
/** The smallest range of a group. */
const RANGE_MIN = 1e-5;

/** Scale and zero point of a group; its range need not hold zero. */
function findRange(
  values: Float32Array,
  first: number,
  count: number,
): { readonly scale: number; readonly zero: number } {
  let [low, high] = [Infinity, -Infinity];
  for (let i = first; i < first + count; i++) {
    low = Math.min(low, values[i] ?? 0);
    high = Math.max(high, values[i] ?? 0);
  }
  const scale = f(Math.max(f(high - low), RANGE_MIN) / MOST);
  return { scale, zero: clampCode(-roundEven(f(low / scale))) };
}

function clampCode(code: number): number {
  return Math.min(Math.max(code, 0), MOST);
}

/** q = round(x / scale) + zero; x ~ (q - zero) scale. */
export function awq(id: string, group: number): PartScheme {
  return Object.freeze({
    id,
    title: `4-bit integers, scale and zero point for ${group} (AWQ gemm layout)`,
    source: "AutoAWQ checkpoints; AWQ, arXiv:2306.00978",
    needs: "stream",
    measures: "nothing",
    hessian: "ignored",
    form: { container: "awq", group },
    columnUnit: group,
    rowsTogether: () => 8,
    parts: ({ rows, columns }) => [
      { name: "qweight", dtype: "I32", shape: [columns, Math.ceil(rows / 8)], along: undefined },
      { name: "scales", dtype: "F16", shape: [columns / group, rows], along: undefined },
      { name: "qzeros", dtype: "I32", shape: [columns / group, Math.ceil(rows / 8)], along: undefined },
    ],
    quantize(window) {
      const { matrix, first, count, values } = window;
      const { codes, zeros, groups } = codesOf(window, group);
      const scales = viewOf(partOf(window, "scales"));
      for (let row = 0; row < count; row++) {
        for (let at = 0; at < groups; at++) {
          const begin = row * matrix.columns + at * group;
          const { scale, zero } = findRange(values, begin, group);
          zeros.values[row * groups + at] = zero;
          scales.setFloat16(2 * (at * matrix.rows + first + row), scale, true);
          for (let i = begin; i < begin + group; i++) {
            codes.values[i] = clampCode(roundEven(f((values[i] ?? 0) / scale)) + zero);
          }
        }
      }
      packAwq(codes, placeOf(window), partOf(window, "qweight"));
      packAwq(zeros, placeOf(window), partOf(window, "qzeros"));
    },
    dequantize(window) {
      const { matrix, first, count, values } = window;
      const { codes, zeros, groups } = codesOf(window, group);
      const scales = viewOf(partOf(window, "scales"));
      unpackAwq(partOf(window, "qweight"), placeOf(window), codes);
      unpackAwq(partOf(window, "qzeros"), placeOf(window), zeros);
      for (let at = 0; at < count * groups; at++) {
        const row = Math.floor(at / groups);
        const scale = scales.getFloat16(2 * ((at % groups) * matrix.rows + first + row), true);
        const zero = zeros.values[at] ?? 0;
        for (let i = at * group; i < (at + 1) * group; i++) values[i] = ((codes.values[i] ?? 0) - zero) * scale;
      }
    },
    limits: {
      width: () => group,
      read(window, low, high) {
        const { matrix, first, count } = window;
        const { zeros, groups } = codesOf(window, group);
        const scales = viewOf(partOf(window, "scales"));
        unpackAwq(partOf(window, "qzeros"), placeOf(window), zeros);
        for (let i = 0; i < count * groups; i++) {
          const scale = scales.getFloat16(2 * ((i % groups) * matrix.rows + first + Math.floor(i / groups)), true);
          const zero = zeros.values[i] ?? 0;
          setLimits(low, high, i, -zero * scale, (MOST - zero) * scale, scale / 2);
        }
      },
    },
  } satisfies PartScheme);
}

/** What checkpoints hold. */
export function storedAwq({ group }: AwqFolder): StoredScheme {
  return awq("awq4", group);
}

function placeOf({ matrix, first }: RowWindow) {
  return { first, channels: matrix.rows };
}

function codesOf({ matrix, count }: RowWindow, group: number) {
  const groups = matrix.columns / group;
  const codes: Codes = { rows: count, columns: matrix.columns, values: new Uint8Array(count * matrix.columns) };
  const zeros: Codes = { rows: count, columns: groups, values: new Uint8Array(count * groups) };
  return { codes, zeros, groups };
}
