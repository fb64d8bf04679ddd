// Between stored dtypes and float32: the meaning of `widen` and `narrow`, in plain TypeScript.
import type { Block, Tile } from "./memory.ts";

/** Dtypes that float arithmetic is defined for; all others can only be copied. */
export const FLOAT_DTYPES = ["F32", "F16", "BF16", "F64"] as const;
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

/** True when arithmetic is defined for a dtype. */
export function isFloatDtype(dtype: string): dtype is FloatDtype {
  return FLOAT_DTYPES.some((known) => known === dtype);
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
const bits = new Uint32Array(float.buffer);

/** float32 value of a bfloat16: its 16 bits are the upper half. Exact. */
export function bfloat16ToFloat32(half: number): number {
  bits[0] = half << 16;
  return float[0] ?? 0;
}

/** Bits of the bfloat16 nearest to a float32, ties to even; any NaN gives 7fc0. */
export function float32ToBfloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  float[0] = value;
  const word = bits[0] ?? 0;
  return ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & 0xffff;
}

export const scalarCast: Cast = Object.freeze({
  widen(dtype, source, byteOffset, target, count) {
    const read = readers[dtype](view(source, byteOffset, count, dtype));
    let nonFinite = 0;
    for (let index = 0; index < count; index++) {
      target.values[index] = read(index);
      if (!Number.isFinite(target.values[index])) nonFinite++;
    }
    return nonFinite;
  },
  narrow(dtype, source, target, byteOffset, count) {
    const data = view(target, byteOffset, count, dtype);
    const write = writers[dtype](data);
    const read = readers[dtype](data);
    let nonFinite = 0;
    for (let index = 0; index < count; index++) {
      write(index, source.values[index] ?? 0);
      if (!Number.isFinite(read(index))) nonFinite++;
    }
    return nonFinite;
  },
} satisfies Cast);

const BYTES: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 2, BF16: 2, F64: 8 };

function view(block: Block, byteOffset: number, count: number, dtype: FloatDtype): DataView {
  return new DataView(block.bytes.buffer, block.bytes.byteOffset + byteOffset, count * BYTES[dtype]);
}

const readers: Readonly<Record<FloatDtype, (data: DataView) => (index: number) => number>> = {
  F32: (data) => (index) => data.getFloat32(4 * index, true),
  F16: (data) => (index) => data.getFloat16(2 * index, true),
  BF16: (data) => (index) => bfloat16ToFloat32(data.getUint16(2 * index, true)),
  F64: (data) => (index) => data.getFloat64(8 * index, true),
};

const writers: Readonly<Record<FloatDtype, (data: DataView) => (index: number, value: number) => void>> = {
  F32: (data) => (index, value) =>
    Number.isNaN(value) ? data.setUint32(4 * index, 0x7fc00000, true) : data.setFloat32(4 * index, value, true),
  F16: (data) => (index, value) =>
    Number.isNaN(value) ? data.setUint16(2 * index, 0x7e00, true) : data.setFloat16(2 * index, value, true),
  BF16: (data) => (index, value) => data.setUint16(2 * index, float32ToBfloat16(value), true),
  F64: (data) => (index, value) =>
    Number.isNaN(value)
      ? data.setBigUint64(8 * index, 0x7ff8000000000000n, true)
      : data.setFloat64(8 * index, value, true),
};
