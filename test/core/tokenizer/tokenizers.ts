// Small tokenizer.json documents for tests.
import { readTokenizerJson } from "../../../core/tokenizer/tokenizer-json.ts";

export type TokenizerParts = {
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges?: readonly (string | readonly [string, string])[];
  /** Content to id, or to an id and flags. */
  readonly added?: Readonly<Record<string, number | Readonly<Record<string, unknown>>>>;
  readonly model?: Readonly<Record<string, unknown>>;
  readonly document?: Readonly<Record<string, unknown>>;
};

/** The bytes of a tokenizer.json in the form that the tokenizers library writes. */
export function tokenizerBytes({ vocab, merges = [], added = {}, model = {}, document = {} }: TokenizerParts) {
  const tokens = Object.entries(added).map(([content, value]) => ({
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
    ...(typeof value === "number" ? { id: value } : value),
  }));
  const whole = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: tokens,
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, vocab, merges, ...model },
    ...document,
  };
  return new TextEncoder().encode(JSON.stringify(whole));
}

/** The same, read. */
export function makeTokenizer(parts: TokenizerParts) {
  return readTokenizerJson(tokenizerBytes(parts), {});
}
