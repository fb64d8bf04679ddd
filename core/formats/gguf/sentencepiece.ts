// A SentencePiece model as metadata of a GGUF file: tokens, scores and kinds, with the tokens that were added to it and
// the ids of special ones, as llama.cpp's converter puts them there.
// Source: llama.cpp, convert_hf_to_gguf.py (_create_vocab_sentencepiece, LlamaModel.set_vocab).
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import { type PieceKind, parseSentencePiece } from "../../tokenizer/sentencepiece.ts";
import { describeSpecialTokens, looksSpecial, type SpecialSource } from "./special-tokens.ts";
import { type GgufMetadata, type GgufValue, TOKEN_TYPES } from "./type-codes.ts";

/** Scores of ids without a piece, and of tokens that were added. */
const PAD_SCORE = -10000;
export const ADDED_SCORE = -1000;

export type SentencePieceSource = SpecialSource & {
  /** tokenizer.model. */
  readonly model: Uint8Array;
  /** Parsed added_tokens.json. */
  readonly addedTokens: unknown;
};

const id = z.coerce.number().int().nonnegative();
const addedSchema = z.record(z.string(), id);
const decoderSchema = z.record(
  z.string().regex(/^\d+$/),
  z.looseObject({ content: z.string(), special: z.boolean().default(false) }),
);

/**
 * Metadata of the tokenizer; ids without a token become unused ones, up to the config's vocab_size.
 * Throws QuantizeTokenizerUnsupported: no model, an algorithm that readers of this name do not run, or more pieces than
 * the model has rows.
 */
export function describeSentencePiece(source: SentencePieceSource): GgufMetadata {
  const { addedTokens, settings, config } = source;
  const { pieces, algorithm, addsPrefix } = parseSentencePiece(source.model);
  if (algorithm !== "bpe") throw unsupported("tokenizer.model", "trainer_spec.model_type", algorithm, "bpe");
  const rows = Number(config?.vocab_size ?? pieces.length);
  if (!(pieces.length <= rows)) {
    throw unsupported("tokenizer.model", "pieces", `${pieces.length}`, `at most the model's ${rows} rows`);
  }
  const tokens = Array.from({ length: rows }, (_, at) => {
    const piece = pieces[at];
    if (piece === undefined) return { text: `[PAD${at}]`, score: PAD_SCORE, type: TOKEN_TYPES.unused };
    return { text: piece.text, score: piece.score, type: typeOf(piece.kind) };
  });
  // Ids beyond the model's rows are passed over, as the converter does: no row could be read for them.
  const put = (at: number, text: string, type: number): void => {
    if (at < rows) tokens[at] = { text, score: ADDED_SCORE, type };
  };
  const added = parse(addedSchema, addedTokens, "added_tokens.json");
  for (const [text, at] of Object.entries(added ?? {})) put(at, text, TOKEN_TYPES["user-defined"]);
  const decoder = parse(decoderSchema, settings?.added_tokens_decoder, "tokenizer_config.json");
  for (const [at, { content, special }] of Object.entries(decoder ?? {})) {
    const isControl = special || looksSpecial(content);
    put(
      Number(at),
      isControl ? content : content.replaceAll("\u2581", " "),
      TOKEN_TYPES[isControl ? "control" : "user-defined"],
    );
  }
  const metadata = new Map<string, GgufValue>();
  metadata.set("tokenizer.ggml.model", { kind: "string", value: "llama" });
  metadata.set("tokenizer.ggml.pre", { kind: "string", value: "default" });
  const list = (element: "string" | "f32" | "i32", values: readonly GgufValue[]): GgufValue => {
    return { kind: "array", element, values };
  };
  const texts = tokens.map(({ text }) => ({ kind: "string", value: text }) as const);
  const scores = tokens.map(({ score }) => ({ kind: "f32", value: score }) as const);
  const types = tokens.map(({ type }) => ({ kind: "i32", value: type }) as const);
  metadata.set("tokenizer.ggml.tokens", list("string", texts));
  metadata.set("tokenizer.ggml.scores", list("f32", scores));
  metadata.set("tokenizer.ggml.token_type", list("i32", types));
  for (const [key, value] of describeSpecialTokens(source, rows)) metadata.set(key, value);
  const prefix = settings?.add_prefix_space ?? (addsPrefix ? undefined : false);
  if (typeof prefix === "boolean") metadata.set("tokenizer.ggml.add_space_prefix", { kind: "bool", value: prefix });
  return metadata;
}

/** As the converter has it: a piece of the model itself is no added token, whatever the model says. */
function typeOf(kind: PieceKind): number {
  return TOKEN_TYPES[kind === "user-defined" ? "normal" : kind];
}

/** A document by its schema; undefined where there is none. */
function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, file: string): z.output<Schema> | undefined {
  if (value === undefined) return undefined;
  return parseAs(schema, value, (field, found) => unsupported(file, field, found, "tokens and ids"));
}

function unsupported(file: string, field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("QuantizeTokenizerUnsupported", { where: { file, field }, found, expected });
}
