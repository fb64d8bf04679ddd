// A tokenizer.model: the pieces of a SentencePiece model with their scores and kinds, and what it says of its
// algorithm; read, and written from what other files tell of it.
// Source: sentencepiece, src/sentencepiece_model.proto (ModelProto).
import { viewOf } from "../data-view.ts";
import { MergeyardError } from "../error.ts";
import { TOKENIZER_LIMITS } from "../limits.ts";
import { encodeBytes, encodeFields, encodeFloat, encodeNumber, type ProtoField, readFields } from "./protobuf.ts";

/** Kinds of pieces, by their number in the file. */
export const PIECE_KINDS = ["normal", "unknown", "control", "user-defined", "unused", "byte"] as const;
export type PieceKind = (typeof PIECE_KINDS)[number];

export type Piece = { readonly text: string; readonly score: number; readonly kind: PieceKind };

export type SentencePieceModel = {
  /** By id. */
  readonly pieces: readonly Piece[];
  readonly algorithm: "unigram" | "bpe" | "word" | "char";
  /** True where a space is put before every text. */
  readonly addsPrefix: boolean;
};

const ALGORITHMS = ["unigram", "bpe", "word", "char"] as const;
const FILE = "tokenizer.model";

/** Throws QuantizeTokenizerUnsupported: bytes that are no such model, or too many pieces. */
export function parseSentencePiece(bytes: Uint8Array): SentencePieceModel {
  const pieces: Piece[] = [];
  // What fields mean that are not there.
  let [algorithm, addsPrefix]: [SentencePieceModel["algorithm"], boolean] = ["unigram", true];
  for (const field of readFields(bytes, refuse)) {
    if (field.number === 1) {
      pieces.push(readPiece(field));
      if (pieces.length > TOKENIZER_LIMITS.tokens) throw refuse(field.offset, "too many pieces");
    } else if (field.number === 2) {
      for (const { number, value } of inside(field)) if (number === 3) algorithm = nameAlgorithm(value, field);
    } else if (field.number === 3) {
      for (const { number, value } of inside(field)) if (number === 3) addsPrefix = value !== 0;
    }
  }
  if (pieces.length === 0) throw refuse(0, "no pieces");
  return { pieces, algorithm, addsPrefix };
}

function readPiece(field: ProtoField): Piece {
  let piece: Piece = { text: "", score: 0, kind: "normal" };
  for (const { number, value, bytes } of inside(field)) {
    if (number === 1) piece = { ...piece, text: decodeText(bytes, field) };
    else if (number === 2 && bytes.length === 4) piece = { ...piece, score: floatOf(bytes) };
    else if (number === 3)
      piece = { ...piece, kind: PIECE_KINDS[value - 1] ?? fail(field, `a piece of kind ${value}`) };
  }
  return piece;
}

function nameAlgorithm(value: number, field: ProtoField): SentencePieceModel["algorithm"] {
  return ALGORITHMS[value - 1] ?? fail(field, `algorithm ${value}`);
}

/** Fields of a message that is a field. */
function inside({ bytes, offset }: ProtoField): Iterable<ProtoField> {
  return readFields(bytes, (_at, found) => refuse(offset, found));
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeText(bytes: Uint8Array, field: ProtoField): string {
  try {
    return decoder.decode(bytes);
  } catch {
    return fail(field, "a piece that is no UTF-8");
  }
}

function floatOf(bytes: Uint8Array): number {
  return viewOf(bytes).getFloat32(0, true);
}

function fail({ offset }: ProtoField, found: string): never {
  throw refuse(offset, found);
}

function refuse(offset: number, found: string): MergeyardError {
  const expected = "a SentencePiece model";
  return new MergeyardError("QuantizeTokenizerUnsupported", { where: { file: FILE, offset }, found, expected });
}

/** What a model says of itself besides its pieces; ids of special pieces, where there are any. */
export type SentencePieceSpec = Pick<SentencePieceModel, "pieces" | "algorithm" | "addsPrefix"> & {
  readonly special: { readonly unk: number; readonly bos?: number | undefined; readonly eos?: number | undefined };
};

/**
 * The file of a model that takes texts as they are: no normalization but a space before the text where it says so, and
 * spaces written as U+2581. Readers look special pieces up by name.
 */
export function encodeSentencePiece({ pieces, algorithm, addsPrefix, special }: SentencePieceSpec): Uint8Array {
  const listed = pieces.map(({ text, score, kind }) => {
    // Normal is what a piece is that says nothing.
    const type = kind === "normal" ? undefined : encodeNumber(3, PIECE_KINDS.indexOf(kind) + 1);
    return encodeBytes(1, encodeFields([encodeBytes(1, text), encodeFloat(2, score), type]));
  });
  const named = Object.entries({ unk: special.unk, bos: special.bos, eos: special.eos, pad: undefined });
  const trainer = [
    encodeNumber(3, ALGORITHMS.indexOf(algorithm) + 1),
    encodeNumber(4, pieces.length),
    encodeNumber(35, pieces.some(({ kind }) => kind === "byte") ? 1 : 0),
    ...named.map(([, id], at) => encodeNumber(40 + at, id ?? -1)),
    ...named.map(([, id], at) => {
      const piece = id === undefined ? undefined : pieces[id];
      return piece && encodeBytes(45 + at, piece.text);
    }),
  ];
  const normalizer = [encodeBytes(1, "identity"), encodeNumber(3, addsPrefix ? 1 : 0), encodeNumber(4, 0)];
  return encodeFields([
    ...listed,
    encodeBytes(2, encodeFields(trainer)),
    encodeBytes(3, encodeFields([...normalizer, encodeNumber(5, 1)])),
  ]);
}
