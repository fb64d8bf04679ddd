// How byte-level tokenizers write bytes in their tokens. Source: GPT-2's encoder.py, `bytes_to_unicode`.

/** By byte, its character: itself where it can be seen, else the next one from U+0100 on. */
export const BYTE_CHARACTERS: readonly string[] = (() => {
  const isSeen = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isSeen(byte) ? byte : next++));
})();
