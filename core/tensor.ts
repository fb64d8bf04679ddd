// Dtypes, shapes and sizes: the only definition of each. Every parser folds a format's own dtype names into the
// safetensors spelling used here, and every size in bytes is computed by `tensorBytes`.

/**
 * Every safetensors dtype with its width in bits, in the format's own order (which is also the writer's sort order).
 * Source: safetensors crate, `Dtype`; reference `checkpoint-formats.md` section 1.2.
 */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type Dtype = keyof typeof DTYPE_BITS;

/** Dtypes that weights have before they are quantized, and that scales take from them. */
export const SCALE_DTYPES = ["F32", "BF16", "F16"] as const;
export type ScaleDtype = (typeof SCALE_DTYPES)[number];

/** The dtype where scales may have it. */
export function asScaleDtype(dtype: Dtype): ScaleDtype | undefined {
  return SCALE_DTYPES.find((known) => known === dtype);
}

/** All dtypes in the safetensors order: a later one is written first. */
export const DTYPES: readonly Dtype[] = Object.freeze(Object.keys(DTYPE_BITS).filter(isDtype));

/** True when `text` is the safetensors spelling of a dtype. */
export function isDtype(text: string): text is Dtype {
  return Object.hasOwn(DTYPE_BITS, text);
}

/** Position of a dtype in the safetensors order (0 = BOOL); the writer sorts by it, descending. */
export function dtypeRank(dtype: Dtype): number {
  return DTYPES.indexOf(dtype);
}

/** Lengths of the axes, outermost first, row-major. `[]` is one element. */
export type Shape = readonly number[];

/** Product of the axis lengths; 1 for `[]`. The caller has bounded the shape (`core/limits.ts`). */
export function elementCount(shape: Shape): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** Bytes of `count` elements; the caller has checked that they fill whole bytes (F4 and F6 may not). */
export function elementBytes(dtype: Dtype, count: number): number {
  return (count * DTYPE_BITS[dtype]) / 8;
}

/** Bytes of a dense row-major tensor. */
export function tensorBytes(dtype: Dtype, shape: Shape): number {
  return elementBytes(dtype, elementCount(shape));
}

/** True when two shapes have the same axes. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}
