// Goal: tokens that stand for the same text are found whatever a tokenizer writes them as, and nothing else is. Method:
// small tokenizer.json documents of each alphabet.
import assert from "node:assert/strict";
import { test } from "node:test";
import { readTokenizerJson } from "../../../core/tokenizer/tokenizer-json.ts";
import { matchTokens, type UsedTokenizer } from "../../../core/transplant/match-tokens.ts";

const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false };
const METASPACE = { type: "Metaspace", replacement: "\u2581" };

type Added = { readonly content: string; readonly special: boolean };

function tokenizerOf(
  preTokenizer: unknown,
  tokens: readonly string[],
  added: readonly Added[] = [],
  roles: Readonly<Record<string, string>> = {},
): UsedTokenizer {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const listed = added.map(({ content, special }) => ({ id: tokens.indexOf(content), content, special }));
  const document = { model: { type: "BPE", vocab, merges: [] }, pre_tokenizer: preTokenizer, added_tokens: listed };
  const tokenizer = readTokenizerJson(new TextEncoder().encode(JSON.stringify(document)), {});
  return { tokenizer, roles: new Map(Object.entries(roles)) };
}

function match(base: UsedTokenizer, donor: UsedTokenizer, rows = 1000) {
  const { isToken, same, byte, prefix } = matchTokens(base, donor, rows);
  return { isToken: [...isToken], same: [...same], byte: [...byte], prefix: [...prefix] };
}

test("byte-level and SentencePiece tokens of the same text are the same", () => {
  const bytes = tokenizerOf(BYTE_LEVEL, ["\u0120a", "\u00c3\u00a9", "\u010a", "\u0120\u0120", "a", "\u00c3"]);
  const pieces = ["\u2581a", "\u00e9", "<0x0A>", "\u2581\u2581", "<0x61>", "<0xC3>", "b"];
  const spaces = tokenizerOf(METASPACE, pieces);
  assert.deepEqual(match(bytes, spaces).same, [0, 1, 2, 3, 4, 5, -1]);
  assert.deepEqual(match(spaces, bytes).same, [0, 1, 2, 3, 4, 5]);
  const whole = tokenizerOf(METASPACE, [...pieces, "a"]);
  assert.deepEqual(match(bytes, whole).same.slice(4), [-1, 5, -1, 4], "the byte of a is not its text, which is there");
  assert.deepEqual(match(bytes, whole).byte.slice(4), [4, -1, -1, -1]);
  assert.deepEqual(match(whole, bytes).same.slice(4), [7, 5]);
});

test("what looks like a byte token is text where bytes are written otherwise", () => {
  const bytes = tokenizerOf(BYTE_LEVEL, ["<0x0A>", "\u010a"]);
  const plain = tokenizerOf(null, ["<0x0A>", "\u010a", "\n"]);
  assert.deepEqual(match(bytes, plain).same, [0, -1, 1]);
});

test("a special token is one of the same text, else of the same use, and never ordinary text", () => {
  const special = (content: string): Added => ({ content, special: true });
  const base = tokenizerOf(BYTE_LEVEL, ["<s>", "<pad>", "x", "<end>"], [special("<pad>"), special("<end>")], {
    eos_token: "<end>",
    pad_token: "<end>",
  });
  const donor = tokenizerOf(
    BYTE_LEVEL,
    ["<s>", "</s>", "<pad>", "<unk>", "x", "<mask>"],
    [special("<s>"), special("</s>"), special("<pad>"), special("<mask>")],
    { bos_token: "<s>", eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" },
  );
  const { same, prefix } = match(base, donor);
  assert.deepEqual(same, [-1, 3, 1, -1, 2, -1]);
  assert.deepEqual(prefix, [-1, -1, -1, -1, -1, -1]);
});

test("an added token that is not special is text too", () => {
  const base = tokenizerOf(BYTE_LEVEL, ["\u0120\u0120", "<go>"], [{ content: "<go>", special: false }]);
  const donor = tokenizerOf(METASPACE, ["  ", "<go>", "\u2581\u2581"], [{ content: "  ", special: false }]);
  assert.deepEqual(match(base, donor).same, [0, 1, 0]);
});

test("prefixes end between characters, and are more than spaces where the token is", () => {
  const base = tokenizerOf(BYTE_LEVEL, ["a", "ab", "\u0120", "\u0120a", "\u00c3"]);
  const donor = tokenizerOf(METASPACE, ["abcd", "\u2581abc", "\u2581b", "\u00e9", "a\u00e9", "\u2581\u2581", "ab"]);
  const { same, prefix } = match(base, donor);
  assert.deepEqual(prefix, [1, 3, -1, -1, 0, 2, -1]);
  assert.deepEqual(same, [-1, -1, -1, -1, -1, -1, 1]);
});

test("ids without a token are told, and rows that the base lacks do not count", () => {
  const base = tokenizerOf(null, ["a", "b"]);
  const donor = tokenizerOf(null, ["b", "a"]);
  assert.deepEqual(match(base, donor, 1).same, [-1, 0]);
  const sparse = { ...donor, tokenizer: { ...donor.tokenizer, vocabulary: { ids: new Map([["a", 2]]), added: [] } } };
  const found = match(base, sparse);
  assert.deepEqual(
    [found.isToken, found.same],
    [
      [0, 0, 1],
      [-1, -1, 0],
    ],
  );
});
