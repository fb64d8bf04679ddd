// core/ops/mask.ts: random masks. The byte of an element decides at once unless it equals the threshold's byte; then the
// element's second word does.
import { fillBytes, secondWord, setKey } from "./philox";

/** Elements whose random bytes are drawn together. */
const CHUNK: i32 = 1024;
/** Room for a chunk that starts anywhere in a group of 64. */
const BYTES: usize = memory.data(1152);
/** Thresholds' high bytes of one group. */
const HIGHS: usize = memory.data(16);

/** Marks below the high byte, and of those equal to it the ones whose second word is below `low`. */
@inline function decide(
  bytes: v128,
  highs: v128,
  low: u32,
  key0: u32,
  key1: u32,
  element: u64,
): u32 {
  let marks = <u32>i8x16.bitmask(i8x16.lt_u(bytes, highs));
  let equal = <u32>i8x16.bitmask(i8x16.eq(bytes, highs));
  while (equal != 0) {
    const lane = ctz(equal);
    equal &= equal - 1;
    marks |= u32(secondWord(key0, key1, element + <u64>lane) < low) << lane;
  }
  return marks;
}

/** `firstElement` is a multiple of 64. */
export function drawMask(
  key0: u32,
  key1: u32,
  firstElement: f64,
  high: i32,
  low: u32,
  bits: usize,
  count: i32,
): void {
  setKey(key0, key1);
  const highs = i8x16.splat(<i8>high);
  const first = <u64>firstElement;
  for (let done = 0; done < count; done += 64) {
    const element = first + <u64>done;
    fillBytes(element >> 4, BYTES);
    const left = count - done < 64 ? count - done : 64;
    const target = bits + <usize>(done >> 3);
    for (let lane = 0; lane < left; lane += 16) {
      const marks = decide(v128.load(BYTES + <usize>lane), highs, low, key0, key1, element + <u64>lane);
      store<u16>(target + <usize>(lane >> 3), <u16>(left - lane >= 16 ? marks : marks & ((1 << (left - lane)) - 1)));
    }
  }
}

/** Thresholds by rank: `lows` of four bytes, `highs` of one. */
export function drawRankedMask(
  key0: u32,
  key1: u32,
  firstElement: f64,
  lows: usize,
  highs: usize,
  ranks: usize,
  bits: usize,
  count: i32,
): void {
  setKey(key0, key1);
  for (let done = 0; done < count; done += CHUNK) {
    const first = <u64>firstElement + <u64>done;
    const skipped = <usize>(first & 63);
    const left = count - done < CHUNK ? count - done : CHUNK;
    const drawn = skipped + <usize>left;
    for (let at: usize = 0; at < drawn; at += 64) fillBytes((first >> 4 & ~3) + <u64>(at >> 4), BYTES + at);
    for (let lane = 0; lane < left; lane += 16) {
      const some = left - lane < 16 ? left - lane : 16;
      const rank = ranks + (<usize>(done + lane) << 2);
      for (let j: usize = 0; j < <usize>some; j++) store<u8>(HIGHS + j, load<u8>(highs + load<u32>(rank + (j << 2))));
      const bytes = v128.load(BYTES + skipped + <usize>lane);
      const group = v128.load(HIGHS);
      const valid: u32 = <u32>((1 << some) - 1);
      let marks = <u32>i8x16.bitmask(i8x16.lt_u(bytes, group)) & valid;
      let equal = <u32>i8x16.bitmask(i8x16.eq(bytes, group)) & valid;
      while (equal != 0) {
        const j = ctz(equal);
        equal &= equal - 1;
        const low = load<u32>(lows + (<usize>load<u32>(rank + (<usize>j << 2)) << 2));
        marks |= u32(secondWord(key0, key1, first + <u64>lane + <u64>j) < low) << j;
      }
      store<u16>(bits + <usize>((done + lane) >> 3), <u16>marks);
    }
  }
}
