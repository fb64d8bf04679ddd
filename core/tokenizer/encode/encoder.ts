// Text to token ids, as the tokenizers library encodes it without special tokens of its own accord: added tokens first,
// the rest normalized, cut into pieces, and each piece by the byte-pair model. For prompts: nothing here is fast enough
// for a corpus. Pinned by test/golden/tokenizers, which the library made.
import { type ErrorPlace, MergeyardError } from "../../error.ts";
import { TOKENIZER_LIMITS } from "../../limits.ts";
import { sumOf } from "../../sum-of.ts";
import type { AddedToken } from "../tokenizer.ts";
import { describeTokenizer, parseTokenizerJson } from "../tokenizer-json.ts";
import { createFinder } from "./added-tokens.ts";
import { type BytePairModel, encodePiece, indexMerges } from "./byte-pairs.ts";
import { readEncodingParts } from "./parts.ts";
import { type Cut, createCut, normalize, type Piece } from "./pre-tokenize.ts";
import { splitPattern } from "./split-patterns.ts";

export type Encode = (text: string) => readonly number[];

/**
 * The encoder of a tokenizer.json; `where` is its place in errors. Throws PlanTokenizerInvalid, and
 * PlanTokenizerNotSupported for another model than byte pairs or a part that is not known.
 */
export function createEncoder(bytes: Uint8Array, where: ErrorPlace): Encode {
  const document = parseTokenizerJson(bytes, where);
  const { vocabulary, merges: pairs, model: kind } = describeTokenizer(document);
  const refuse = (field: string, found: string): MergeyardError =>
    new MergeyardError("PlanTokenizerNotSupported", { where: { ...where, field }, found });
  const { vocab } = document.model;
  if (kind !== "BPE" || !(vocab instanceof Map)) throw refuse("model.type", kind);
  const { normalizers, preTokenizers, model: options } = readEncodingParts(document, where);
  checkLengths(vocabulary.added, refuse);
  const merges = indexMerges(pairs, vocab, (pair) => {
    const found = `a merge of ${JSON.stringify(pair)}, of which a token is missing`;
    return new MergeyardError("PlanTokenizerInvalid", { where: { ...where, field: "model.merges" }, found });
  });
  const refuseUnknown = (character: string): Error =>
    refuse(
      "model.unk_token",
      `${JSON.stringify(options.unk_token)}, not in the vocabulary, for ${JSON.stringify(character)}`,
    );
  const model: BytePairModel = { options, vocabulary: vocab, merges, refuseUnknown };
  const cuts = preTokenizers.map((step) =>
    createCut(step, (pattern) => {
      const known = splitPattern(pattern);
      if (known === undefined) throw refuse("pre_tokenizer", `the pattern ${JSON.stringify(pattern)}`);
      return known;
    }),
  );
  const clean = (text: string): string => normalize(text, normalizers);
  const isNormalized = ({ flags }: { flags: { normalized: boolean } }): boolean => flags.normalized;
  const findRaw = createFinder(
    vocabulary.added.filter((token) => !isNormalized(token)),
    (content) => content,
  );
  const findNormalized = createFinder(vocabulary.added.filter(isNormalized), clean);
  const encodeText = (text: string, isFirst: boolean): readonly number[] =>
    findNormalized(clean(text)).flatMap((part) => {
      if (part.id !== undefined) return [part.id];
      const piece = { text: part.text, isFirst: isFirst && part.start === 0 };
      return cutAll(piece, cuts).flatMap((own) => encodePiece(own.text, model));
    });
  return (text) =>
    findRaw(text).flatMap((part) => (part.id === undefined ? encodeText(part.text, part.start === 0) : [part.id]));
}

function checkLengths(tokens: readonly AddedToken[], refuse: (field: string, found: string) => Error): void {
  const { addedTokenCharacters: most, addedTokensCharacters: mostOfAll } = TOKENIZER_LIMITS;
  const long = tokens.find(({ content }) => content.length > most);
  if (long !== undefined) throw refuse("added_tokens", `a token of ${long.content.length} characters`);
  const all = sumOf(tokens, ({ content }) => content.length);
  if (all > mostOfAll) throw refuse("added_tokens", `tokens of ${all} characters`);
}

function cutAll(piece: Piece, cuts: readonly Cut[]): readonly Piece[] {
  return cuts.reduce<readonly Piece[]>((pieces, cut) => pieces.flatMap(cut), [piece]);
}
