// Arithmetic in the dtype that a model's weights have. The tools that define these schemes compute scales and quotients
// as torch does: in float32, each result rounded to the weights' dtype. Called by the schemes that store parts.
import { bfloat16ToFloat32, float32ToBfloat16 } from "../ops/cast.ts";
import type { ScaleDtype } from "../tensor.ts";
import { nearest } from "./bits.ts";

export type Rounding = {
  readonly bytes: number;
  /** Distance from 1 to the next value: what a scale of zero becomes. */
  readonly epsilon: number;
  /** Nearest value, ties to even, of a number that is first rounded to float32. */
  round(value: number): number;
  /** The same for the first `count` finite values of a run that `createRun` made. */
  roundRun(run: Run, count: number): void;
  write(target: DataView, index: number, value: number): void;
  read(source: DataView, index: number): number;
};

/** Scratch for a run of quotients, and its bits. */
export type Run = { readonly values: Float32Array; readonly words: Uint32Array };

export function createRun(length: number): Run {
  const values = new Float32Array(length);
  return { values, words: new Uint32Array(values.buffer) };
}

export const ROUNDINGS: Readonly<Record<ScaleDtype, Rounding>> = Object.freeze({
  F32: {
    bytes: 4,
    epsilon: 2 ** -23,
    round: Math.fround,
    roundRun: () => {},
    write: (target, index, value) => target.setFloat32(4 * index, value, true),
    read: (source, index) => source.getFloat32(4 * index, true),
  },
  BF16: {
    bytes: 2,
    epsilon: 2 ** -7,
    round: (value) => bfloat16ToFloat32(float32ToBfloat16(value)),
    roundRun({ words }, count) {
      for (let i = 0; i < count; i++) {
        const word = words[i] ?? 0;
        words[i] = (word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000;
      }
    },
    write: (target, index, value) => target.setUint16(2 * index, float32ToBfloat16(value), true),
    read: (source, index) => bfloat16ToFloat32(source.getUint16(2 * index, true)),
  },
  F16: {
    bytes: 2,
    epsilon: 2 ** -10,
    round: (value) => Math.f16round(Math.fround(value)),
    roundRun({ values }, count) {
      for (let i = 0; i < count; i++) values[i] = Math.f16round(values[i] ?? 0);
    },
    write: (target, index, value) => target.setFloat16(2 * index, Math.fround(value), true),
    read: (source, index) => source.getFloat16(2 * index, true),
  },
} satisfies Record<ScaleDtype, Rounding>);

/** max|x| of a run of values. */
export function largestOf(values: Float32Array, first: number, count: number): number {
  let largest = 0;
  for (let i = first; i < first + count; i++) {
    const size = Math.abs(values[i] ?? 0);
    if (size > largest) largest = size;
  }
  return largest;
}

/** Nearest integer, ties to even, of a value within +-2^22. */
export const roundEven = nearest;
