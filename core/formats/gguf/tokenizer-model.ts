// The SentencePiece tokenizer of a GGUF file as tokenizer.model and tokenizer_config.json: the way back of
// sentencepiece.ts. Called where a GGUF file becomes a checkpoint (tokenizer-json.ts).
import { encodeSentencePiece, PIECE_KINDS, type Piece, type PieceKind } from "../../tokenizer/sentencepiece.ts";
import { ADDED_SCORE } from "./sentencepiece.ts";
import { TOKEN_TYPES } from "./type-codes.ts";

/** A token as the file has it. */
export type GgufToken = { readonly text: string; readonly score: number; readonly type: number };

export type RebuiltModel = {
  readonly model: Uint8Array;
  /** `added_tokens_decoder` of the settings: tokens that are no pieces, and pieces that are also named there. */
  readonly added: Readonly<Record<string, { readonly content: string; readonly special: boolean }>>;
};

const KINDS: ReadonlyMap<number, PieceKind> = new Map(PIECE_KINDS.map((kind) => [TOKEN_TYPES[kind], kind]));

const UNKNOWN = "<unk>";

export type ModelSpec = {
  readonly tokens: readonly GgufToken[];
  readonly addsPrefix: boolean;
  readonly unk: number | undefined;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
};

/**
 * The model, and the tokens that were added to it: those of an added token's score. What comes after the last piece of
 * the model itself, padding to its rows included, is no piece. Undefined for tokens that make no such model: a type
 * that is none, or none that stands for what is unknown.
 */
export function rebuildSentencePiece({ tokens, addsPrefix, unk, bos, eos }: ModelSpec): RebuiltModel | undefined {
  const count = tokens.findLastIndex((token, id) => !isAdded(token) && !isPadding(token, id)) + 1;
  const unknown = [tokens.findIndex(({ type }) => type === TOKEN_TYPES.unknown), unk, tokens.findIndex(isUnknown)].find(
    (id) => id !== undefined && id >= 0 && id < count,
  );
  if (unknown === undefined) return undefined;
  const pieces = tokens.slice(0, count).flatMap((token, id): Piece[] => {
    const kind = id === unknown ? "unknown" : KINDS.get(token.type);
    return kind === undefined ? [] : [{ text: token.text, score: isAdded(token) ? 0 : token.score, kind }];
  });
  if (pieces.length < count) return undefined;
  const inModel = (id: number | undefined) => (id !== undefined && pieces[id]?.kind === "control" ? id : undefined);
  const special = { unk: unknown, bos: inModel(bos), eos: inModel(eos) };
  const model = encodeSentencePiece({ pieces, algorithm: "bpe", addsPrefix, special });
  const listed = tokens.flatMap((token, id) => {
    if (!isAdded(token)) return [];
    return [[String(id), { content: token.text, special: token.type === TOKEN_TYPES.control }] as const];
  });
  return { model, added: Object.fromEntries(listed) };
}

function isAdded({ score, type }: GgufToken): boolean {
  return type === TOKEN_TYPES["user-defined"] || (type === TOKEN_TYPES.control && score === ADDED_SCORE);
}

function isPadding({ text, type }: GgufToken, id: number): boolean {
  return type === TOKEN_TYPES.unused && text === `[PAD${id}]`;
}

function isUnknown({ text }: GgufToken): boolean {
  return text === UNKNOWN;
}
