// A tokenizer.model: the pieces of a SentencePiece model with their scores and kinds, and what it says of its
// algorithm.
// Source: sentencepiece, src/sentencepiece_model.proto (ModelProto).
import { MergeyardError } from "../error.ts";
import { TOKENIZER_LIMITS } from "../limits.ts";
import { type ProtoField, readFields } from "./protobuf.ts";

/** Kinds of pieces, by their number in the file. */
const KINDS = ["normal", "unknown", "control", "user-defined", "unused", "byte"] as const;
export type PieceKind = (typeof KINDS)[number];

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
    else if (number === 3) piece = { ...piece, kind: KINDS[value - 1] ?? fail(field, `a piece of kind ${value}`) };
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
  return new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true);
}

function fail({ offset }: ProtoField, found: string): never {
  throw refuse(offset, found);
}

function refuse(offset: number, found: string): MergeyardError {
  const expected = "a SentencePiece model";
  return new MergeyardError("QuantizeTokenizerUnsupported", { where: { file: FILE, offset }, found, expected });
}
