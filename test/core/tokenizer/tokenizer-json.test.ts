import assert from "node:assert/strict";
import test from "node:test";
import { readTokenizerJson } from "../../../core/tokenizer/tokenizer-json.ts";
import { refusal } from "../../refusal.ts";
import { makeTokenizer, tokenizerBytes } from "./tokenizers.ts";

const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

test("tokens, added tokens and merges are read, in the old form of merges and in the new one", () => {
  const vocab = { a: 0, b: 1, ab: 2, __proto__x: 3, "7": 4 };
  for (const merges of [["a b"], [["a", "b"] as const]]) {
    const { vocabulary, merges: read, model, takesTokens } = makeTokenizer({ vocab, merges, added: { "<s>": 5 } });
    assert.deepEqual([...vocabulary.ids], [...Object.entries(vocab), ["<s>", 5]]);
    assert.deepEqual(
      vocabulary.added.map(({ content, id, flags }) => [content, id, flags.special]),
      [["<s>", 5, true]],
    );
    assert.deepEqual(read, [["a", "b"]]);
    assert.deepEqual([model, takesTokens], ["BPE", true]);
  }
});

test("a token called __proto__ is a token", () => {
  const text = '{"model":{"type":"BPE","vocab":{"a":0,"__proto__":1},"merges":[]}}';
  const { vocabulary } = readTokenizerJson(new TextEncoder().encode(text), {});
  assert.deepEqual(
    [...vocabulary.ids],
    [
      ["a", 0],
      ["__proto__", 1],
    ],
  );
});

test("an added token that the model knows has the model's id, as the tokenizers library gives it", () => {
  const { vocabulary } = makeTokenizer({ vocab: { "<s>": 0, a: 1 }, added: { "<s>": 9 } });
  assert.deepEqual(
    vocabulary.added.map(({ id }) => id),
    [0],
  );
});

test("writing keeps the rest of the file, and lists added tokens in the model too", () => {
  const tokenizer = makeTokenizer({
    vocab: { a: 0, b: 1, ab: 2 },
    merges: ["a b"],
    added: { "<s>": 3 },
    document: { post_processor: { type: "TemplateProcessing" }, extra: [1] },
  });
  const { vocabulary, merges } = tokenizer;
  const written = JSON.parse(tokenizer.write(vocabulary, merges));
  assert.deepEqual(written.model.vocab, { a: 0, b: 1, ab: 2, "<s>": 3 });
  assert.deepEqual(written.model.merges, ["a b"]);
  assert.deepEqual(written.post_processor, { type: "TemplateProcessing" });
  assert.deepEqual(written.extra, [1]);
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  assert.deepEqual(written.added_tokens, [{ id: 3, content: "<s>", ...flags }]);
  const spaced = JSON.parse(tokenizer.write(vocabulary, [["a", " b"]]));
  assert.deepEqual(spaced.model.merges, [["a", " b"]], "a space inside a token needs pairs");
});

test("a list of tokens and scores is read by place and written no longer than its ids", () => {
  const tokenizer = makeTokenizer({
    vocab: {},
    model: {
      type: "Unigram",
      vocab: [
        ["<unk>", 0],
        ["▁a", -1.5],
        ["▁b", -2],
      ],
      merges: undefined,
    },
  });
  assert.deepEqual(
    [...tokenizer.vocabulary.ids],
    [
      ["<unk>", 0],
      ["▁a", 1],
      ["▁b", 2],
    ],
  );
  assert.equal(tokenizer.takesTokens, false);
  const kept = {
    ids: new Map([
      ["<unk>", 0],
      ["▁a", 1],
    ]),
    added: [],
  };
  assert.deepEqual(JSON.parse(tokenizer.write(kept, [])).model.vocab, [
    ["<unk>", 0],
    ["▁a", -1.5],
  ]);
});

test("a file of another form is refused with its place", () => {
  const cases: readonly [Uint8Array, string | undefined][] = [
    [encode({ model: { type: "BPE", merges: [] } }), "model.vocab"],
    [encode({ model: { type: "BPE", vocab: { a: -1 }, merges: [] } }), "model.vocab"],
    [encode({ model: { type: "BPE", vocab: { a: 0 }, merges: ["abc"] } }), "model.merges.0"],
    [tokenizerBytes({ vocab: { a: 0 }, added: { "<s>": { id: "x" } } }), "added_tokens.0.id"],
    [new TextEncoder().encode('{"model":{"vocab":{"a":0,"a":1}}}'), undefined],
    [new TextEncoder().encode("{"), undefined],
  ];
  for (const [bytes, field] of cases) {
    assert.throws(
      () => readTokenizerJson(bytes, { model: "m", file: "tokenizer.json" }),
      refusal({ code: "PlanTokenizerInvalid", model: "m", field }),
      field,
    );
  }
});
