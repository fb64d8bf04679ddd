// core/ops/mask.ts: random masks. The byte of an element decides at once unless it equals the threshold's byte; then
// the element's second word does.
import { byteFlip } from "./constants";
import { fillBytes, secondWord, setKey } from "./philox";

/** Elements whose random bytes are drawn together. */
const CHUNK: i32 = 1024;
const BYTES: usize = memory.data(1024);
/** Which bytes of a chunk equal the threshold's, 16 bits a group. */
const EQUALS: usize = memory.data(128);

/** Unsigned bytes below unsigned bytes: signed comparison of both with the upper bit flipped is the cheaper one. */
@inline function below(bytes: v128, highs: v128): u32 {
  const flip = byteFlip();
  return <u32>i8x16.bitmask(i8x16.gt_s(v128.xor(highs, flip), v128.xor(bytes, flip)));
}

/** `firstElement` is a multiple of 16. */
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
  for (let done = 0; done < count; done += CHUNK) {
    const first = <u64>firstElement + <u64>done;
    const left = <usize>(count - done < CHUNK ? count - done : CHUNK);
    const target = bits + <usize>(done >> 3);
    // In three steps, so that the rare second look never waits for, or holds up, the generator.
    for (let at: usize = 0; at < left; at += 128) fillBytes((first + <u64>at) >> 4, BYTES + at);
    for (let at: usize = 0; at < left; at += 16) {
      const bytes = v128.load(BYTES + at);
      store<u16>(target + (at >> 3), <u16>below(bytes, highs));
      store<u16>(EQUALS + (at >> 3), <u16>i8x16.bitmask(i8x16.eq(bytes, highs)));
    }
    if (low != 0) {
      for (let at: usize = 0; at < left; at += 64) {
        let equal = load<u64>(EQUALS + (at >> 3));
        while (equal != 0) {
          const index = at + <usize>ctz(equal);
          equal &= equal - 1;
          if (index < left && secondWord(key0, key1, first + <u64>index) < low) setMark(target, index);
        }
      }
    }
    const rest = <u32>left & 15;
    if (rest != 0) {
      const last = target + ((left >> 4) << 1);
      store<u16>(last, <u16>(<u32>load<u16>(last) & ((1 << rest) - 1)));
    }
  }
}

@inline function setMark(bits: usize, index: usize): void {
  const address = bits + (index >> 3);
  store<u8>(address, <u8>(<u32>load<u8>(address) | (1 << (<u32>index & 7))));
}
