// Double Rounding: fewer bits from stored 8-bit codes alone, without the float weights. The codes of every lower width
// come from the 8-bit ones, not from each other.
// What is stored is INT8 of compressed-tensors, symmetric; what is made are packed integers of the same groups.
// Source: Nearly Lossless Adaptive Bit Switching, arXiv:2502.01199; quantization reference section 10.
import { viewOf } from "../data-view.ts";
import type { CompressedForm } from "./compressed-form.ts";
import { type IntegerForm, type IntegerScheme, integers, packCodes, readCodes, writeShape } from "./integers.ts";
import { ROUNDINGS } from "./rounding.ts";
import { partOf, type RowWindow } from "./scheme.ts";

/** Widths that 8-bit codes give way to. */
export const LOWER_BITS = [6, 4, 2] as const;
export type LowerBits = (typeof LOWER_BITS)[number];

const STORED_BITS = 8;

/**
 * q_l = clip(round(q_8 / 2^(8 - l))), ties to even; its step is 2^(8 - l) times the stored one. The difference |q_l
 * 2^(8 - l) - q_8| is at most half that step, except where the largest codes are clipped.
 */
export function deriveCodes(codes: Int8Array, bits: LowerBits): Int8Array {
  const shift = STORED_BITS - bits;
  const [low, high] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
  const half = (1 << (shift - 1)) - 1;
  const derived = new Int8Array(codes.length);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i] ?? 0;
    const rounded = (code + half + ((code >> shift) & 1)) >> shift;
    derived[i] = rounded < low ? low : Math.min(rounded, high);
  }
  return derived;
}

/** The step of derived codes, in float32. */
export function deriveScale(scale: number, bits: LowerBits): number {
  return Math.fround(scale * 2 ** (STORED_BITS - bits));
}

/**
 * The step that loses least against the stored values of one group: s_l = sum(q_8 q_l) s_8 / sum(q_l^2), in float32.
 * Worth its pass at 4 bits and below. A group whose derived codes are all zero keeps the plain step.
 */
export function refitScale(codes: Int8Array, derived: Int8Array, scale: number, bits: LowerBits): number {
  let [product, square] = [0, 0];
  for (let i = 0; i < codes.length; i++) {
    product += (codes[i] ?? 0) * (derived[i] ?? 0);
    square += (derived[i] ?? 0) ** 2;
  }
  return square === 0 ? deriveScale(scale, bits) : Math.fround((product * scale) / square);
}

/** From what is stored to what it gives way to. */
export type Derivation = {
  readonly bits: LowerBits;
  readonly stored: Pick<IntegerForm, "packed" | "group">;
  readonly target: IntegerScheme;
};

/** Undefined for a form that is not 8-bit integers without zero points. */
export function planDerivation(form: Omit<CompressedForm, "activations">, bits: LowerBits): Derivation | undefined {
  const { format, type, symmetric, strategy } = form;
  const packed = format === "pack-quantized";
  const group = strategy === "group" ? form.group : GROUPS[strategy];
  const isStored = form.bits === STORED_BITS && type === "int" && symmetric && (packed || format === "int-quantized");
  if (!isStored || group === undefined) return undefined;
  // Servers have no packed integers under one scale for a whole tensor, and a scale for each channel loses less.
  const own = group === "tensor" ? "row" : group;
  const name = `int${bits}_${own === "row" ? "channel" : `group${own}`}`;
  const title = `${bits}-bit integers from 8-bit ones, scale for ${own === "row" ? "a channel" : own}`;
  const target = integers({ id: name, title, bits, group: own, symmetric, packed: true, activations: "none" });
  return { bits, stored: { packed, group }, target };
}

const GROUPS: Partial<Record<CompressedForm["strategy"], "row" | "tensor">> = { channel: "row", tensor: "tensor" };

/**
 * Fills the parts of `to`, rows of the derivation's target, from the stored parts of `from`, the same rows. Every
 * group's scale is refitted, in float32, and rounded to the dtype of the stored scales. Returns how many codes were
 * clipped: those that would round up beyond the largest.
 */
export function deriveWindow({ bits, stored, target }: Derivation, from: RowWindow, to: RowWindow): number {
  const { columns, dtype } = from.matrix;
  const rounding = ROUNDINGS[dtype];
  const width = target.form.group ?? columns;
  const groups = columns / width;
  const [scales, derivedScales] = [viewOf(partOf(from, "weight_scale")), viewOf(partOf(to, "weight_scale"))];
  const codes = new Int8Array(columns);
  const beyond = (2 ** bits - 1) * 2 ** (STORED_BITS - bits - 1);
  let clipped = 0;
  for (let row = 0; row < from.count; row++) {
    readCodes({ bits: STORED_BITS, packed: stored.packed }, from, row, codes);
    const derived = deriveCodes(codes, bits);
    for (let at = 0; at < groups; at++) {
      const scale = rounding.read(scales, stored.group === "tensor" ? 0 : row * groups + at);
      const [begin, end] = [at * width, (at + 1) * width];
      const refitted = refitScale(codes.subarray(begin, end), derived.subarray(begin, end), scale, bits);
      rounding.write(derivedScales, row * groups + at, refitted);
    }
    for (let i = 0; i < columns; i++) if ((codes[i] ?? 0) >= beyond) clipped += 1;
    packCodes({ bits }, to, row, derived);
  }
  writeShape(to);
  return clipped;
}
