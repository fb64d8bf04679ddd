import assert from "node:assert/strict";
import test from "node:test";
import { mergeVocabularies } from "../../../core/tokenizer/merge-vocabularies.ts";
import type { Tokenizer } from "../../../core/tokenizer/tokenizer.ts";
import { makeTokenizer } from "./tokenizers.ts";

const use = (model: string, tokenizer: Tokenizer, rows = 100) => ({ model, tokenizer, rows });

test("the first vocabulary keeps its ids; ordinary tokens come next, then added ones, then the recipe's", () => {
  const a = makeTokenizer({ vocab: { x: 0, y: 1 }, added: { "<a>": 2 } });
  const b = makeTokenizer({ vocab: { z: 1, x: 2, w: 0 }, added: { "<b>": 3, "<a>": 4 } });
  const { vocabulary, rows, unchanged } = mergeVocabularies(use("a", a), [use("b", b)], ["<new>", "x"]);
  assert.deepEqual(
    [...vocabulary.ids],
    [
      ["x", 0],
      ["y", 1],
      ["<a>", 2],
      ["w", 3],
      ["z", 4],
      ["<b>", 5],
      ["<new>", 6],
    ],
  );
  assert.deepEqual(
    vocabulary.added.map(({ content, id }) => [content, id]),
    [
      ["<a>", 2],
      ["<b>", 5],
      ["<new>", 6],
    ],
  );
  assert.deepEqual([rows, unchanged], [7, false]);
});

test("ids that have no row are left out, of the first vocabulary and of the others", () => {
  const a = makeTokenizer({ vocab: { x: 0, y: 1, gone: 2 }, added: { "<gone>": 3 } });
  const b = makeTokenizer({ vocab: { z: 0, "also gone": 9 }, added: { "<next>": 8, "<out>": 10 } });
  const { vocabulary } = mergeVocabularies(use("a", a, 2), [use("b", b, 8)], []);
  assert.deepEqual(
    [...vocabulary.ids],
    [
      ["x", 0],
      ["y", 1],
      ["z", 2],
    ],
  );
  assert.deepEqual(vocabulary.added, []);
});

test("merges follow in the order of the models, each once, where all three tokens exist", () => {
  const a = makeTokenizer({ vocab: { a: 0, b: 1, c: 2, ab: 3 }, merges: ["a b"] });
  const b = makeTokenizer({ vocab: { a: 0, b: 1, c: 2, bc: 3, ab: 4, abc: 5 }, merges: ["b c", "a b", "ab c"] });
  assert.deepEqual(mergeVocabularies(use("a", a), [use("b", b)], []).merges, [
    ["a", "b"],
    ["b", "c"],
    ["ab", "c"],
  ]);
  assert.deepEqual(mergeVocabularies(use("a", a), [use("b", b, 5)], []).merges, [
    ["a", "b"],
    ["b", "c"],
  ]);
});

test("an added token that models define differently is the first model's, and is named", () => {
  const a = makeTokenizer({ vocab: { x: 0 }, added: { "<s>": { id: 1, lstrip: true } } });
  const b = makeTokenizer({ vocab: { x: 0 }, added: { "<s>": 1 } });
  const { vocabulary, conflicts } = mergeVocabularies(use("a", a), [use("b", b)], []);
  assert.equal(vocabulary.added[0]?.flags.lstrip, true);
  assert.deepEqual(conflicts, ["<s> (b)"]);
});

test("a token that is ordinary in one model and added in another is added, under the id it has", () => {
  const a = makeTokenizer({ vocab: { x: 0, "<t>": 1 } });
  const b = makeTokenizer({ vocab: { y: 0 }, added: { "<t>": 1 } });
  const { vocabulary, unchanged } = mergeVocabularies(use("a", a), [use("b", b)], []);
  assert.deepEqual(
    vocabulary.added.map(({ content, id }) => [content, id]),
    [["<t>", 1]],
  );
  assert.equal(unchanged, false);
});

test("equal vocabularies stay as they are", () => {
  const parts = { vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"], added: { "<s>": 3 } };
  const [a, b] = [makeTokenizer(parts), makeTokenizer(parts)];
  assert.equal(mergeVocabularies(use("a", a), [use("b", b)], ["<s>"]).unchanged, true);
  assert.equal(mergeVocabularies(use("a", a), [use("b", b)], ["<t>"]).unchanged, false);
});
