// Task vectors as kernels see them: never stored, always the difference of two stored values.
import { scalarCast } from "./cast.ts";
import type { CombineDtype } from "./combine.ts";
import type { Block } from "./memory.ts";

/**
 * One model's part of one tile: element i is fl32(source[i] - base[i]), both stored as `dtype` from `byteOffset` on.
 */
export type Deltas = {
  readonly dtype: CombineDtype;
  readonly base: Block;
  readonly source: Block;
  readonly byteOffset: number;
};

/** The differences as float32 numbers. */
export function readDeltas({ dtype, base, source, byteOffset }: Deltas, count: number): Float32Array {
  const [from, to] = [base, source].map((block) => {
    const tile = { address: 0, values: new Float32Array(count) };
    scalarCast.widen(dtype, block, byteOffset, tile, count);
    return tile.values;
  });
  return Float32Array.from({ length: count }, (_, i) => (to?.[i] ?? 0) - (from?.[i] ?? 0));
}

/** 32-bit words of a block in kernel memory. */
export function wordsOf(block: Block): Uint32Array {
  return new Uint32Array(block.bytes.buffer, block.bytes.byteOffset, block.bytes.byteLength >>> 2);
}

/** Sets bit `index` of a block of mask bits, or clears it. */
export function setBit(bits: Block, index: number, value: boolean): void {
  const byte = bits.bytes[index >>> 3] ?? 0;
  bits.bytes[index >>> 3] = value ? byte | (1 << (index & 7)) : byte & ~(1 << (index & 7));
}

/** Bit `index` of a block of mask bits. */
export function bitAt(bits: Block, index: number): boolean {
  return (((bits.bytes[index >>> 3] ?? 0) >>> (index & 7)) & 1) === 1;
}

/** How many of the `count` bits from `bitOffset` on are set. */
export function countBits({ bytes }: Block, bitOffset: number, count: number): number {
  const groups = new Uint16Array(bytes.buffer, bytes.byteOffset + bitOffset / 8, Math.ceil(count / BIT_GROUP));
  let total = 0;
  for (let i = 0; i < groups.length; i++) {
    const rest = count - BIT_GROUP * i;
    let group = groups[i] ?? 0;
    if (rest < BIT_GROUP) group &= (1 << rest) - 1;
    group -= (group >>> 1) & 0x5555;
    group = (group & 0x3333) + ((group >>> 2) & 0x3333);
    group = (group + (group >>> 4)) & 0x0f0f;
    total += (group + (group >>> 8)) & 0x1f;
  }
  return total;
}

/** Clears the bits that fill up the last group of sixteen after `count` bits from `bitOffset` on. */
export function clearRest(bits: Block, bitOffset: number, count: number): void {
  for (let i = count; i % BIT_GROUP !== 0; i++) setBit(bits, bitOffset + i, false);
}

/** Mask bits are written in whole groups: every bit offset is a multiple of this, and missing elements are 0. */
export const BIT_GROUP = 16;
