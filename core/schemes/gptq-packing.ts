// How GPTQ and AWQ checkpoints hold integers: transposed, inputs by outputs, in 32-bit words.
// Source: AutoGPTQ and GPTQModel, AutoAWQ; quantization reference sections 5 and 6.
import { viewOf } from "../data-view.ts";
import { packBits, packColumn, packedBytes, unpackBits, unpackColumn } from "./bit-stream.ts";

/** Codes [rows, columns] of a matrix, output channels by inputs. */
export type Codes = { readonly rows: number; readonly columns: number; readonly values: Uint8Array };

/** qweight of GPTQ, [columns b / 32, rows]: every output channel is a stream down its column of words. */
export function packGptqWeights(codes: Codes, bits: number, first: number, words: Uint8Array, stride: number): void {
  for (let row = 0; row < codes.rows; row++) {
    const channel = codes.values.subarray(row * codes.columns, (row + 1) * codes.columns);
    packColumn({ words, stride, column: first + row }, channel, codes.columns, bits);
  }
}

/** The inverse, for output channels [first, first + rows). */
export function unpackGptqWeights(words: Uint8Array, stride: number, bits: number, first: number, codes: Codes): void {
  for (let row = 0; row < codes.rows; row++) {
    const channel = codes.values.subarray(row * codes.columns, (row + 1) * codes.columns);
    unpackColumn({ words, stride, column: first + row }, codes.columns, bits, channel);
  }
}

/** Where the zero points of some output channels lie: `words` is the whole of qzeros for `channels` of them. */
export type ZeroWords = { readonly words: Uint8Array; readonly channels: number; readonly first: number };

function zeroStream({ words, channels, first }: ZeroWords, bits: number, group: number, count: number): Uint8Array {
  const begin = group * packedBytes(channels, bits) + (first * bits) / 8;
  return words.subarray(begin, begin + packedBytes(count, bits));
}

/**
 * qzeros of GPTQ, [groups, channels b / 32]: for each group a stream along the output channels. Checkpoints of version
 * 1 hold each zero minus one, modulo 2^b; those of version 2 the zero. `zeros` is [channels here, groups].
 */
export function packGptqZeros(zeros: Codes, bits: number, version: 1 | 2, target: ZeroWords): void {
  const { rows, columns: groups, values } = zeros;
  const codes = new Uint8Array(rows);
  const less = version === 1 ? 1 : 0;
  for (let group = 0; group < groups; group++) {
    for (let row = 0; row < rows; row++) codes[row] = ((values[row * groups + group] ?? 0) - less) & (2 ** bits - 1);
    packBits(codes, rows, bits, zeroStream(target, bits, group, rows));
  }
}

/** The inverse; `zeros` is filled. */
export function unpackGptqZeros(source: ZeroWords, bits: number, version: 1 | 2, zeros: Codes): void {
  const { rows, columns: groups, values } = zeros;
  const codes = new Uint8Array(rows);
  const more = version === 1 ? 1 : 0;
  for (let group = 0; group < groups; group++) {
    unpackBits(zeroStream(source, bits, group, rows), rows, bits, codes);
    for (let row = 0; row < rows; row++) values[row * groups + group] = ((codes[row] ?? 0) + more) & (2 ** bits - 1);
  }
}

/** Nibble i of an AWQ word is output channel 8 c + AWQ_ORDER[i]. */
const AWQ_ORDER = Uint8Array.of(0, 2, 4, 6, 1, 3, 5, 7);

/** Which output channels: from `first`, a multiple of 8, of `channels` in all. */
export type AwqPlace = { readonly first: number; readonly channels: number };

/**
 * 4-bit codes as AWQ's "gemm" layout has them: [columns, channels / 8] words, where columns are inputs (qweight) or
 * groups (qzeros). `codes` is [channels here, columns].
 */
export function packAwq({ rows, columns, values }: Codes, { first, channels }: AwqPlace, words: Uint8Array): void {
  const [view, stride] = [viewOf(words), Math.ceil(channels / 8)];
  for (let column = 0; column < columns; column++) {
    for (let row = 0; row < rows; row += 8) {
      let packed = 0;
      for (let i = 0; i < 8; i++) packed |= (values[(row + (AWQ_ORDER[i] ?? 0)) * columns + column] ?? 0) << (4 * i);
      view.setInt32(4 * (column * stride + (first + row) / 8), packed, true);
    }
  }
}

/** The inverse; `codes` is filled. */
export function unpackAwq(words: Uint8Array, { first, channels }: AwqPlace, { rows, columns, values }: Codes): void {
  const [view, stride] = [viewOf(words), Math.ceil(channels / 8)];
  for (let column = 0; column < columns; column++) {
    for (let row = 0; row < rows; row += 8) {
      const packed = view.getInt32(4 * (column * stride + (first + row) / 8), true);
      for (let i = 0; i < 8; i++) {
        const channel = row + (AWQ_ORDER[i] ?? 0);
        if (channel < rows) values[channel * columns + column] = (packed >>> (4 * i)) & 15;
      }
    }
  }
}
