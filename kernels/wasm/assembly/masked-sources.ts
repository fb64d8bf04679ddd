// Where task vectors under masks come from: a table that the host fills, 16 bytes a source, and what keeps a source's
// elements. Used by masked-magnitudes.ts, masked.ts and masked-election.ts.
//
// An entry: address (u32); address of the mask bits (u32) and scale (f32), or least and largest key (i32); weight (f32).
import { magnitude } from "./constants";

/** Room for MASKED_SOURCES_MAX entries. */
export const TABLE: usize = memory.data(1024);

export function maskedTable(): usize {
  return TABLE;
}

/**
 * Bit k of lane k mod 4, a vector for every four bits. In memory, because a vector constant in a loop is put together
 * anew in every round.
 */
const LANES: usize = memory.data<u32>([
  0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000, 0x10000,
  0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000, 0x800000, 0x1000000, 0x2000000, 0x4000000, 0x8000000,
  0x10000000, 0x20000000, 0x40000000, 0x80000000,
]);

/** All ones in the lanes whose bit is set: bits 4q to 4q+3 of the splatted word. */
@inline export function laneMask(bits: v128, quarter: usize): v128 {
  const lanes = v128.load(LANES + 16 * quarter);
  return i32x4.eq(v128.and(bits, lanes), lanes);
}

/** What keeps a source's elements, for `How`: bits (and a scale), or keys. Told apart by size when it is compiled. */
export type MaskBits = u16;
export type LeastKey = u32;
export type KeyBand = u64;

/** Kept differences times what they count for. A NaN stays NaN, so that its key need not be that of all NaN. */
@inline export function weigh<How>(delta: v128, quarter: usize, first: v128, second: v128, weight: v128): v128 {
  if (sizeof<How>() == sizeof<MaskBits>()) return f32x4.mul(f32x4.mul(delta, v128.and(laneMask(first, quarter), second)), weight);
  const key = v128.and(delta, magnitude());
  let dropped = i32x4.lt_s(key, first);
  if (sizeof<How>() == sizeof<KeyBand>()) dropped = v128.or(dropped, i32x4.gt_s(key, second));
  return f32x4.mul(delta, v128.andnot(weight, dropped));
}

/** Of an entry: the mask bits of a group, or its least key. */
@inline export function loadFirst<How>(entry: usize, bitOffset: usize): v128 {
  if (sizeof<How>() == sizeof<MaskBits>()) return v128.load16_splat(<usize>load<u32>(entry, 4) + bitOffset);
  return v128.load32_splat(entry, 4);
}

/** By byte of mask bits, of two sources: its scale where a bit is set, else 0; of the even bits, then of the odd ones. */
const SCALES: usize = memory.data(16384);
const SOURCE_SCALES: usize = 8192;

/** Looking a byte up costs less than telling its bits apart, once the table is there. */
export function fillPairScales(): void {
  for (let source: usize = 0; source < 2; source++) {
    const scale = v128.load32_splat(TABLE + 16 * source, 8);
    let target = SCALES + SOURCE_SCALES * source;
    for (let byte = 0; byte < 256; byte++, target += 32) {
      const bits = i32x4.splat(byte);
      v128.store(target, v128.and(i32x4.ne(v128.and(bits, i32x4(0x1, 0x4, 0x10, 0x40)), i32x4.splat(0)), scale));
      v128.store(target, v128.and(i32x4.ne(v128.and(bits, i32x4(0x2, 0x8, 0x20, 0x80)), i32x4.splat(0)), scale), 16);
    }
  }
}

/** Where the scales of eight elements are, those of the odd ones 16 bytes on. */
@inline export function pairScales(source: usize, bits: usize): usize {
  return SCALES + SOURCE_SCALES * source + (<usize>load<u8>(bits) << 5);
}
