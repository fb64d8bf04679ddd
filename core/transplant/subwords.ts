// Rows of tokens that a model does not know from its own rows of the pieces that its tokenizer makes of their text.
// Source: mergekit, mergekit/tokensurgeon/subword.py.
import type { Encode } from "../tokenizer/encode/encoder.ts";
import { tokenBytes, type UsedTokenizer } from "./match-tokens.ts";
import type { Combinations } from "./row-plan.ts";
import type { VocabularySide } from "./vocabulary-tensors.ts";

/**
 * mean: all pieces alike. sum: each once. weighted_mean: n, ..., 2, 1 over their sum, from the first of n pieces on in
 * an embedding, from the last in a head. first_last: the last piece in an embedding, the first in a head.
 */
export const SUBWORD_WEIGHTINGS = ["mean", "sum", "weighted_mean", "first_last"] as const;
export type SubwordWeighting = (typeof SUBWORD_WEIGHTINGS)[number];

/** Weights of `count` pieces in their order. */
export function weighPieces(count: number, weighting: SubwordWeighting, side: VocabularySide): readonly number[] {
  const isHead = side === "head";
  return Array.from({ length: count }, (_, at) => {
    if (weighting === "mean") return 1 / count;
    if (weighting === "sum") return 1;
    if (weighting === "first_last") return at === (isHead ? 0 : count - 1) ? 1 : 0;
    return (2 * (isHead ? at + 1 : count - at)) / (count * (count + 1));
  });
}

/** The model whose rows are combined: what its tokenizer makes of a text, and its rows. */
export type SubwordModel = UsedTokenizer & { readonly encode: Encode; readonly rows: number };

/**
 * By target, the rows of its pieces; what is no whole text is the rows of its bytes. Pieces without a row are left out.
 * Throws what the encoder throws.
 */
export function combineSubwords(
  targets: Int32Array,
  donor: UsedTokenizer,
  base: SubwordModel,
  weigh: (count: number) => readonly number[],
): Combinations {
  const bytesOf = tokenBytes(donor);
  const ofByte = new Map(
    [...tokenBytes(base)].filter(([, { length }]) => length === 1).map(([id, byte]) => [byte, id]),
  );
  const pieces = Array.from(targets, (id) => {
    const bytes = bytesOf.get(id) ?? "";
    const text = decodeWhole(bytes);
    const ids = text === undefined ? [...bytes].flatMap((byte) => ofByte.get(byte) ?? []) : base.encode(text);
    return ids.filter((own) => own < base.rows);
  });
  const starts = new Int32Array(targets.length + 1);
  for (const [target, { length }] of pieces.entries()) starts[target + 1] = (starts[target] ?? 0) + length;
  const weights = pieces.flatMap(({ length }) => weigh(length));
  return { starts, rows: Int32Array.from(pieces.flat()), weights: Float64Array.from(weights) };
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Undefined for bytes that are no UTF-8, such as a part of a character. */
function decodeWhole(bytes: string): string | undefined {
  try {
    return decoder.decode(Buffer.from(bytes, "latin1"));
  } catch {
    return undefined;
  }
}
