// core/random.ts: Philox 4x32-10. Eight blocks at a time for masks, and one word of one block for the rare second look.

import { philox0, philox1 } from "./constants";

const MULTIPLIER_0: u32 = 0xd2511f53;
const MULTIPLIER_1: u32 = 0xcd9e8d57;
const WEYL_0: u32 = 0x9e3779b9;
const WEYL_1: u32 = 0xbb67ae85;

/** The two keys of every round, each in all lanes of a vector. */
const KEYS: usize = memory.data(320);

/** Sets the key that `fillBytes` uses. */
export function setKey(key0: u32, key1: u32): void {
  for (let round: usize = 0; round < 10; round++) {
    v128.store(KEYS + 32 * round, i32x4.splat(<i32>(key0 + WEYL_0 * <u32>round)));
    v128.store(KEYS + 32 * round, i32x4.splat(<i32>(key1 + WEYL_1 * <u32>round)), 16);
  }
}

@inline function highs(first: v128, second: v128): v128 {
  return v128.shuffle<u32>(first, second, 1, 3, 5, 7);
}

@inline function lows(first: v128, second: v128): v128 {
  return v128.shuffle<u32>(first, second, 0, 2, 4, 6);
}

/** The words of four blocks, a vector for each of the four, block after block. */
@inline function storeBlocks(target: usize, c0: v128, c1: v128, c2: v128, c3: v128): void {
  const c01 = v128.shuffle<u32>(c0, c1, 0, 4, 1, 5);
  const c23 = v128.shuffle<u32>(c2, c3, 0, 4, 1, 5);
  const d01 = v128.shuffle<u32>(c0, c1, 2, 6, 3, 7);
  const d23 = v128.shuffle<u32>(c2, c3, 2, 6, 3, 7);
  v128.store(target, v128.shuffle<u64>(c01, c23, 0, 2));
  v128.store(target, v128.shuffle<u64>(c01, c23, 1, 3), 16);
  v128.store(target, v128.shuffle<u64>(d01, d23, 0, 2), 32);
  v128.store(target, v128.shuffle<u64>(d01, d23, 1, 3), 48);
}

/**
 * A hundred and twenty-eight random bytes: those of elements 16 block to 16 block + 127, in order. Two times four
 * blocks go side by side, since each round waits for the one before.
 */
@inline export function fillBytes(block: u64, target: usize): void {
  const low = i32x4.splat(<i32>block);
  const high = i32x4.splat(<i32>(block >> 32));
  let c0 = i32x4.add(low, i32x4(0, 1, 2, 3));
  let d0 = i32x4.add(low, i32x4(4, 5, 6, 7));
  // A lane that has wrapped carries: true is -1.
  let c1 = i32x4.sub(high, i32x4.lt_u(c0, low));
  let d1 = i32x4.sub(high, i32x4.lt_u(d0, low));
  let c2 = i32x4.splat(0);
  let c3 = i32x4.splat(0);
  let d2 = c2;
  let d3 = c3;
  const multiplier0 = philox0();
  const multiplier1 = philox1();
  for (let key: usize = KEYS; key < KEYS + 320; key += 32) {
    const key0 = v128.load(key);
    const key1 = v128.load(key, 16);
    let first0 = i64x2.extmul_low_i32x4_u(c0, multiplier0);
    let second0 = i64x2.extmul_high_i32x4_u(c0, multiplier0);
    let first1 = i64x2.extmul_low_i32x4_u(c2, multiplier1);
    let second1 = i64x2.extmul_high_i32x4_u(c2, multiplier1);
    c0 = v128.xor(v128.xor(highs(first1, second1), c1), key0);
    c2 = v128.xor(v128.xor(highs(first0, second0), c3), key1);
    c1 = lows(first1, second1);
    c3 = lows(first0, second0);
    first0 = i64x2.extmul_low_i32x4_u(d0, multiplier0);
    second0 = i64x2.extmul_high_i32x4_u(d0, multiplier0);
    first1 = i64x2.extmul_low_i32x4_u(d2, multiplier1);
    second1 = i64x2.extmul_high_i32x4_u(d2, multiplier1);
    d0 = v128.xor(v128.xor(highs(first1, second1), d1), key0);
    d2 = v128.xor(v128.xor(highs(first0, second0), d3), key1);
    d1 = lows(first1, second1);
    d3 = lows(first0, second0);
  }
  storeBlocks(target, c0, c1, c2, c3);
  storeBlocks(target + 64, d0, d1, d2, d3);
}

/** The word that decides for an element whose byte equals the threshold's. */
export function secondWord(key0: u32, key1: u32, element: u64): u32 {
  const block = element >> 2;
  let c0: u32 = <u32>block;
  let c1: u32 = <u32>(block >> 32);
  let c2: u32 = 1;
  let c3: u32 = 0;
  for (let round = 0; round < 10; round++) {
    const product0 = <u64>MULTIPLIER_0 * <u64>c0;
    const product1 = <u64>MULTIPLIER_1 * <u64>c2;
    c0 = <u32>(product1 >> 32) ^ c1 ^ key0;
    c1 = <u32>product1;
    c2 = <u32>(product0 >> 32) ^ c3 ^ key1;
    c3 = <u32>product0;
    key0 += WEYL_0;
    key1 += WEYL_1;
  }
  const lane = <u32>element & 3;
  return lane == 0 ? c0 : lane == 1 ? c1 : lane == 2 ? c2 : c3;
}
