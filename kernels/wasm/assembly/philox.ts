// core/random.ts: Philox 4x32-10. Four blocks at a time for masks, and one word of one block for the rare second look.

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

/** Sixty-four random bytes: those of elements 16 block to 16 block + 63, in order. */
@inline export function fillBytes(block: u64, target: usize): void {
  let c0 = i32x4.replace_lane(i32x4.splat(<i32>block), 1, <i32>(block + 1));
  c0 = i32x4.replace_lane(i32x4.replace_lane(c0, 2, <i32>(block + 2)), 3, <i32>(block + 3));
  let c1 = i32x4.replace_lane(i32x4.splat(<i32>(block >> 32)), 1, <i32>((block + 1) >> 32));
  c1 = i32x4.replace_lane(i32x4.replace_lane(c1, 2, <i32>((block + 2) >> 32)), 3, <i32>((block + 3) >> 32));
  let c2 = i32x4.splat(0);
  let c3 = i32x4.splat(0);
  const multiplier0 = philox0();
  const multiplier1 = philox1();
  for (let key: usize = KEYS; key < KEYS + 320; key += 32) {
    const first0 = i64x2.extmul_low_i32x4_u(c0, multiplier0);
    const second0 = i64x2.extmul_high_i32x4_u(c0, multiplier0);
    const first1 = i64x2.extmul_low_i32x4_u(c2, multiplier1);
    const second1 = i64x2.extmul_high_i32x4_u(c2, multiplier1);
    const high0 = v128.shuffle<u32>(first0, second0, 1, 3, 5, 7);
    const high1 = v128.shuffle<u32>(first1, second1, 1, 3, 5, 7);
    c0 = v128.xor(v128.xor(high1, c1), v128.load(key));
    c2 = v128.xor(v128.xor(high0, c3), v128.load(key, 16));
    c1 = v128.shuffle<u32>(first1, second1, 0, 2, 4, 6);
    c3 = v128.shuffle<u32>(first0, second0, 0, 2, 4, 6);
  }
  const c01 = v128.shuffle<u32>(c0, c1, 0, 4, 1, 5);
  const c23 = v128.shuffle<u32>(c2, c3, 0, 4, 1, 5);
  const d01 = v128.shuffle<u32>(c0, c1, 2, 6, 3, 7);
  const d23 = v128.shuffle<u32>(c2, c3, 2, 6, 3, 7);
  v128.store(target, v128.shuffle<u64>(c01, c23, 0, 2));
  v128.store(target, v128.shuffle<u64>(c01, c23, 1, 3), 16);
  v128.store(target, v128.shuffle<u64>(d01, d23, 0, 2), 32);
  v128.store(target, v128.shuffle<u64>(d01, d23, 1, 3), 48);
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
