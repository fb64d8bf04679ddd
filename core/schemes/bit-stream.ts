// Codes of 1 to 8 bits as one dense little-endian stream: element i takes bits [b i, b i + b). Cut into 32-bit words it
// is how compressed-tensors and GPTQ pack integers, also those of 3 bits that straddle words.

/** Bytes of a stream that fills whole 32-bit words. */
export function packedBytes(count: number, bits: number): number {
  return 4 * Math.ceil((count * bits) / 32);
}

/** Packs the first `count` codes, each below 2^bits, to the start of `target`; the rest of it becomes zero. */
export function packBits(codes: Uint8Array, count: number, bits: number, target: Uint8Array): void {
  if (bits === 8) {
    target.set(codes.subarray(0, count));
    target.fill(0, count);
    return;
  }
  let [held, width, at] = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    held |= (codes[i] ?? 0) << width;
    width += bits;
    while (width >= 8) {
      target[at++] = held;
      held >>>= 8;
      width -= 8;
    }
  }
  if (width > 0) target[at++] = held;
  target.fill(0, at);
}

/** The inverse: `count` codes. */
export function unpackBits(source: Uint8Array, count: number, bits: number, codes: Uint8Array): void {
  const mask = (1 << bits) - 1;
  let [held, width, at] = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    if (width < bits) {
      held |= (source[at++] ?? 0) << width;
      width += 8;
    }
    codes[i] = held & mask;
    held >>>= bits;
    width -= bits;
  }
}

/** A matrix of 32-bit words, `stride` to a row, of which column `column` is a stream from row 0 down. */
export type WordColumn = { readonly words: Uint8Array; readonly stride: number; readonly column: number };

/** Packs codes down a column of words. */
export function packColumn(
  { words, stride, column }: WordColumn,
  codes: Uint8Array,
  count: number,
  bits: number,
): void {
  const stream = new Uint8Array(packedBytes(count, bits));
  packBits(codes, count, bits, stream);
  for (let i = 0, at = 4 * column; i < stream.length; i += 4, at += 4 * stride) {
    for (let byte = 0; byte < 4; byte++) words[at + byte] = stream[i + byte] ?? 0;
  }
}

/** The inverse of `packColumn`. */
export function unpackColumn(
  { words, stride, column }: WordColumn,
  count: number,
  bits: number,
  codes: Uint8Array,
): void {
  const stream = new Uint8Array(packedBytes(count, bits));
  for (let i = 0, at = 4 * column; i < stream.length; i += 4, at += 4 * stride) {
    for (let byte = 0; byte < 4; byte++) stream[i + byte] = words[at + byte] ?? 0;
  }
  unpackBits(stream, count, bits, codes);
}
