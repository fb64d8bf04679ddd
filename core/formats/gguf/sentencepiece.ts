// A SentencePiece model as metadata of a GGUF file: tokens, scores and kinds, with the tokens that were added to it and
// the ids of special ones, as llama.cpp's converter puts them there.
// Source: llama.cpp, convert_hf_to_gguf.py (_create_vocab_sentencepiece, LlamaModel.set_vocab) and gguf-py,
// gguf/vocab.py (SpecialVocab).
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import { type PieceKind, parseSentencePiece } from "../../tokenizer/sentencepiece.ts";
import { type GgufMetadata, type GgufValue, TOKEN_TYPES } from "./type-codes.ts";

/** Scores of ids without a piece, and of tokens that were added. */
const PAD_SCORE = -10000;
export const ADDED_SCORE = -1000;

export type SentencePieceSource = {
  /** tokenizer.model. */
  readonly model: Uint8Array;
  /** Parsed documents beside it. */
  readonly addedTokens: unknown;
  readonly tokenizerJson: unknown;
  readonly settings: Readonly<Record<string, unknown>> | undefined;
  readonly config: Readonly<Record<string, unknown>> | undefined;
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
  addSpecial(metadata, source, rows);
  const prefix = settings?.add_prefix_space ?? (addsPrefix ? undefined : false);
  if (typeof prefix === "boolean") metadata.set("tokenizer.ggml.add_space_prefix", { kind: "bool", value: prefix });
  return metadata;
}

/** As the converter has it: a piece of the model itself is no added token, whatever the model says. */
function typeOf(kind: PieceKind): number {
  return TOKEN_TYPES[kind === "user-defined" ? "normal" : kind];
}

/** Names by which models call special tokens although no file says that they are. */
function looksSpecial(token: string): boolean {
  if (["<pad>", "<mask>", "<2mass>", "[@BOS@]"].includes(token)) return true;
  const isMarked = token.startsWith("<|") && token.endsWith("|>");
  const isWide = token.startsWith("<\uff5c") && token.endsWith("\uff5c>");
  return isMarked || isWide || (token.startsWith("<unused") && token.endsWith(">"));
}

/** Kinds of special tokens, and what a GGUF key calls them. */
const SPECIAL = [
  ["bos", "bos_token_id"],
  ["eos", "eos_token_id"],
  ["unk", "unknown_token_id"],
  ["sep", "seperator_token_id"],
  ["pad", "padding_token_id"],
  ["cls", "cls_token_id"],
  ["mask", "mask_token_id"],
] as const;

const addedListSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id, content: z.string() })).nullish(),
  post_processor: z.looseObject({ type: z.string(), single: z.array(z.unknown()).nullish() }).nullish(),
});
const templateItem = z.looseObject({ SpecialToken: z.looseObject({ id: z.string() }) });
const named = z.union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)]);

/** Ids by the settings' own names for tokens, else by the config; what readers put around a text by themselves. */
function addSpecial(
  metadata: Map<string, GgufValue>,
  { tokenizerJson, settings, config }: SentencePieceSource,
  rows: number,
): void {
  const known = parse(addedListSchema, tokenizerJson, "tokenizer.json");
  const nameOf = (kind: string) => named.safeParse(settings?.[`${kind}_token`]).data;
  for (const [kind, key] of SPECIAL) {
    const own = known?.added_tokens?.find(({ content }) => content === nameOf(kind))?.id;
    const stated = config?.[`${kind}_token_id`];
    const found = id.max(rows - 1).safeParse(own ?? (typeof stated === "number" ? stated : undefined));
    if (found.success) metadata.set(`tokenizer.ggml.${key}`, { kind: "u32", value: found.data });
  }
  const template = known?.post_processor?.type === "TemplateProcessing" ? known.post_processor.single : undefined;
  const places = [
    ["bos", 0],
    ["eos", -1],
  ] as const;
  for (const [kind, place] of places) {
    const around =
      template != null && template.length > 1 ? templateItem.safeParse(template.at(place)).data : undefined;
    const implied = around === undefined ? undefined : around.SpecialToken.id === nameOf(kind);
    const adds = settings?.[`add_${kind}_token`] ?? implied;
    if (typeof adds === "boolean") metadata.set(`tokenizer.ggml.add_${kind}_token`, { kind: "bool", value: adds });
  }
}

/** A document by its schema; undefined where there is none. */
function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, file: string): z.output<Schema> | undefined {
  if (value === undefined) return undefined;
  return parseAs(schema, value, (field, found) => unsupported(file, field, found, "tokens and ids"));
}

function unsupported(file: string, field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("QuantizeTokenizerUnsupported", { where: { file, field }, found, expected });
}
