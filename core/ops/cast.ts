// Between stored dtypes and float32: the meaning of `widen` and `narrow`, in plain TypeScript.
import assert from "node:assert/strict";
import type { Block, Tile } from "./memory.ts";

/** Dtypes that float arithmetic is defined for; all others can only be copied. */
export const FLOAT_DTYPES = ["F32", "F16", "BF16", "F64"] as const;
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

/** What torch, config.json and recipes call them. */
export const FLOAT_NAMES = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  F64: "float64",
} as const satisfies Record<FloatDtype, string>;

/** The dtype that has such a name. */
export function floatDtypeNamed(name: string | null | undefined): FloatDtype | undefined {
  return FLOAT_DTYPES.find((dtype) => FLOAT_NAMES[dtype] === name);
}

/** Dtypes of 16 bits. */
export type HalfDtype = Extract<FloatDtype, "F16" | "BF16">;

/** True when arithmetic is defined for a dtype. */
export function isFloatDtype(dtype: string): dtype is FloatDtype {
  return FLOAT_DTYPES.some((known) => known === dtype);
}

/** The dtype of what is computed with: planners refuse all others. */
export function floatDtype(dtype: string): FloatDtype {
  assert.ok(isFloatDtype(dtype), `no arithmetic is defined for ${dtype}`);
  return dtype;
}

export type Cast = {
  /**
   * target[i] = float32(source[i]); returns how many of the values are NaN or infinite (after the conversion). Exact
   * for F32, F16 and BF16; F64 rounds once to nearest even. `byteOffset` into the block is a multiple of the element's
   * size.
   */
  widen(dtype: FloatDtype, source: Block, byteOffset: number, target: Tile, count: number): number;
  /**
   * target[i] = source[i] rounded once to `dtype`: nearest, ties to even, overflow to infinity, subnormals kept. Every
   * NaN becomes the dtype's positive quiet NaN (BF16 7fc0, F16 7e00, F32 7fc00000, F64 7ff8 0000 0000 0000), because
   * NaN payloads are the one thing WebAssembly leaves open. Returns how many values are NaN or infinite after rounding.
   */
  narrow(dtype: FloatDtype, source: Tile, target: Block, byteOffset: number, count: number): number;
};

/** Scratch for reading the bits of one float. */
const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** float32 value of a bfloat16: its 16 bits are the upper half. Exact. */
export function bfloat16ToFloat32(half: number): number {
  bits[0] = half << 16;
  return float[0] ?? 0;
}

/** Bits of the bfloat16 nearest to a float32, ties to even; any NaN gives 7fc0. */
export function float32ToBfloat16(value: number): number {
  float[0] = value;
  return roundToBfloat16(bits[0] ?? 0);
}

/** The same from the bits of the float32. */
function roundToBfloat16(word: number): number {
  if ((word & 0x7fff_ffff) > 0x7f80_0000) return 0x7fc0;
  return ((word + 0x7fff + ((word >>> 16) & 1)) >> 16) & 0xffff;
}

/** A value rounded to float32, then to the dtype: nearest, ties to even. */
export function roundingTo(dtype: HalfDtype): (value: number) => number {
  if (dtype === "F16") return (value) => Math.f16round(Math.fround(value));
  return (value) => bfloat16ToFloat32(float32ToBfloat16(Math.fround(value)));
}

export const scalarCast: Cast = Object.freeze({
  widen: (dtype, source, byteOffset, target, count) =>
    WIDEN[dtype](view(source, byteOffset, count, dtype), target.values, count),
  narrow: (dtype, source, target, byteOffset, count) =>
    NARROW[dtype](source.values, view(target, byteOffset, count, dtype), count),
} satisfies Cast);

const BYTES: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 2, BF16: 2, F64: 8 };

function view(block: Block, byteOffset: number, count: number, dtype: FloatDtype): DataView {
  return new DataView(block.bytes.buffer, block.bytes.byteOffset + byteOffset, count * BYTES[dtype]);
}

/** Loops of their own: conversions run here where no kernels are, and one call a value costs ten times the work. */
const WIDEN: Readonly<Record<FloatDtype, (source: DataView, target: Float32Array, count: number) => number>> = {
  F32(source, target, count) {
    for (let index = 0; index < count; index++) target[index] = source.getFloat32(4 * index, true);
    return countNonFinite(target, count);
  },
  F16(source, target, count) {
    for (let index = 0; index < count; index++) target[index] = source.getFloat16(2 * index, true);
    return countNonFinite(target, count);
  },
  BF16(source, target, count) {
    for (let index = 0; index < count; index++) target[index] = bfloat16ToFloat32(source.getUint16(2 * index, true));
    return countNonFinite(target, count);
  },
  F64(source, target, count) {
    for (let index = 0; index < count; index++) target[index] = source.getFloat64(8 * index, true);
    return countNonFinite(target, count);
  },
};

const NARROW: Readonly<Record<FloatDtype, (source: Float32Array, target: DataView, count: number) => number>> = {
  F32(source, target, count) {
    for (let index = 0; index < count; index++) {
      const value = source[index] ?? 0;
      if (Number.isNaN(value)) target.setUint32(4 * index, 0x7fc00000, true);
      else target.setFloat32(4 * index, value, true);
    }
    return countNonFinite(source, count);
  },
  F16(source, target, count) {
    let nonFinite = 0;
    for (let index = 0; index < count; index++) {
      const value = source[index] ?? 0;
      if (Number.isNaN(value)) target.setUint16(2 * index, 0x7e00, true);
      else target.setFloat16(2 * index, value, true);
      if ((target.getUint16(2 * index, true) & 0x7c00) === 0x7c00) nonFinite++;
    }
    return nonFinite;
  },
  BF16(source, target, count) {
    const words = new Int32Array(source.buffer, source.byteOffset, count);
    let nonFinite = 0;
    for (let index = 0; index < count; index++) {
      const half = roundToBfloat16(words[index] ?? 0);
      target.setUint16(2 * index, half, true);
      if ((half & 0x7f80) === 0x7f80) nonFinite++;
    }
    return nonFinite;
  },
  F64(source, target, count) {
    for (let index = 0; index < count; index++) {
      const value = source[index] ?? 0;
      if (Number.isNaN(value)) target.setBigUint64(8 * index, 0x7ff8000000000000n, true);
      else target.setFloat64(8 * index, value, true);
    }
    return countNonFinite(source, count);
  },
};

function countNonFinite(values: Float32Array, count: number): number {
  let nonFinite = 0;
  for (let index = 0; index < count; index++) if (!Number.isFinite(values[index])) nonFinite++;
  return nonFinite;
}
