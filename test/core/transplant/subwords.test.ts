// Goal: a token is combined of the pieces that the base's tokenizer makes of its text, by each way to weigh them.
// Method: an encoder that cuts at every letter.
import assert from "node:assert/strict";
import { test } from "node:test";
import { readTokenizerJson } from "../../../core/tokenizer/tokenizer-json.ts";
import { combineSubwords, SUBWORD_WEIGHTINGS, weighPieces } from "../../../core/transplant/subwords.ts";

function tokenizerOf(tokens: readonly string[]) {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const document = { model: { type: "BPE", vocab, merges: [] }, pre_tokenizer: { type: "ByteLevel" } };
  const tokenizer = readTokenizerJson(new TextEncoder().encode(JSON.stringify(document)), {});
  return { tokenizer, roles: new Map<string, string>() };
}

test("pieces weigh as their ways say, in an embedding and in a head", () => {
  const weights = SUBWORD_WEIGHTINGS.map((weighting) => [
    weighPieces(3, weighting, "embedding"),
    weighPieces(3, weighting, "head"),
  ]);
  const third = 1 / 3;
  assert.deepEqual(weights, [
    [
      [third, third, third],
      [third, third, third],
    ],
    [
      [1, 1, 1],
      [1, 1, 1],
    ],
    [
      [1 / 2, 1 / 3, 1 / 6],
      [1 / 6, 1 / 3, 1 / 2],
    ],
    [
      [0, 0, 1],
      [1, 0, 0],
    ],
  ]);
  assert.deepEqual(weighPieces(0, "mean", "head"), []);
});

test("whole texts are encoded, bytes are rows of bytes, and rows that the base lacks do not count", () => {
  const base = tokenizerOf(["\u0120", "a", "b", "\u00c3", "c"]);
  const donor = tokenizerOf(["ab", "\u0120a", "\u00c3", "b\u00c3", "cb", "c"]);
  const texts: string[] = [];
  const encode = (text: string): readonly number[] => {
    texts.push(text);
    return [...text].map((letter) => " ab\u00c3c".indexOf(letter));
  };
  const targets = Int32Array.from(donor.tokenizer.vocabulary.ids.values());
  const made = combineSubwords(targets, donor, { ...base, encode, rows: 4 }, (count) =>
    weighPieces(count, "sum", "head"),
  );
  assert.deepEqual(texts, ["ab", " a", "cb", "c"]);
  assert.deepEqual([...made.starts], [0, 2, 4, 5, 7, 8, 8]);
  assert.deepEqual([...made.rows], [1, 2, 0, 1, 3, 2, 3, 2]);
  assert.deepEqual([...made.weights], Array(8).fill(1));
});
