// What a merge knows of a tokenizer, whatever file it was read from: which text each row of an embedding stands for.
// Read by tokenizer-json.ts; the planner needs no more to give models of different vocabularies one vocabulary.
import type { ErrorPlace } from "../error.ts";

/** How text is cut around an added token, as `tokenizer.json` says it. */
export type TokenFlags = {
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
};

/** A token that is found in the text before the model of the tokenizer sees it. */
export type AddedToken = { readonly content: string; readonly id: number; readonly flags: TokenFlags };

/** Tokens and their ids: the rows of embedding and head. */
export type Vocabulary = {
  /** Every token, added ones included. */
  readonly ids: ReadonlyMap<string, number>;
  /** In ascending order of ids. */
  readonly added: readonly AddedToken[];
};

/** Two tokens that the model of a tokenizer joins, earlier pairs first. */
export type TokenPair = readonly [string, string];

export type Tokenizer = {
  readonly vocabulary: Vocabulary;
  /** How text becomes tokens (`BPE`, `Unigram`, ...); tokens of one model mean nothing to another. */
  readonly model: string;
  /** True when the model can be given tokens of its own kind at any id. */
  readonly takesTokens: boolean;
  /** Byte-pair merges, best first; empty for other models. */
  readonly merges: readonly TokenPair[];
  /** The token that a merge makes. */
  readonly join: (pair: TokenPair) => string;
  /** Everything that cuts text before the model does: where it differs, equal text gives different tokens. */
  readonly splitting: string;
  /** The text of tokenizer.json with another vocabulary and other merges in place of its own. */
  readonly write: (vocabulary: Vocabulary, merges: readonly TokenPair[]) => string;
};

/** Reads a tokenizer file; `where` is its place in errors. */
export type ReadTokenizer = (bytes: Uint8Array, where: ErrorPlace) => Tokenizer;

/** Flags of a token that a recipe adds. Source: the defaults of the tokenizers library's AddedToken. */
export const PLAIN_FLAGS: TokenFlags = Object.freeze({
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: true,
  special: false,
});
