// Ids of special tokens of byte-level BPE, and what is put around a text, as llama.cpp's converter finds them: files of
// instruct models name in config.json another end than in the settings.
import assert from "node:assert/strict";
import { test } from "node:test";
import { describeTokenizer } from "../../../core/formats/gguf/tokenizer.ts";

const TOKENS = ["<|bos|>", "<|eos|>", "<|eot|>", "<tool\u2581call>"];
const SETTINGS = { bos_token: "<|bos|>", eos_token: { content: "<|eot|>" }, pad_token: "<|eos|>" };

const token = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
const text = (id: string) => ({ Sequence: { id, type_id: 0 } });
const template = (single: readonly object[], pair: readonly object[] = []) => ({
  type: "TemplateProcessing",
  single,
  pair,
});

/** Entries after `tokenizer.ggml.` that the ids and the template decide. */
function describe(change: { post?: object; settings?: Record<string, unknown>; config?: Record<string, unknown> }) {
  const document = {
    added_tokens: TOKENS.map((content, at) => ({ id: 3 + at, content, special: false })),
    pre_tokenizer: { type: "ByteLevel", use_regex: true },
    post_processor: change.post ?? null,
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"] },
  };
  const metadata = describeTokenizer({
    tokenizerJson: new TextEncoder().encode(JSON.stringify(document)),
    tokenizerConfig: change.settings,
    config: { vocab_size: 8, ...change.config },
  });
  return Object.fromEntries(
    [...metadata].flatMap(([key, entry]) => {
      if (entry.kind === "array" || entry.kind === "string") return [];
      return [[key.replace("tokenizer.ggml.", ""), entry.value] as const];
    }),
  );
}

test("the settings name special tokens, and the config only those that they do not", () => {
  const config = { bos_token_id: 0, eos_token_id: [4, 5], unk_token_id: 2 };
  assert.deepEqual(describe({ settings: SETTINGS, config }), {
    bos_token_id: 3,
    eos_token_id: 5,
    unknown_token_id: 2,
    padding_token_id: 4,
  });
  assert.deepEqual(describe({ config }), { bos_token_id: 0, eos_token_id: 4, unknown_token_id: 2 });
  assert.deepEqual(describe({ config: { eos_token_id: 8 } }), {}, "no id of another model's rows");
});

test("the template of tokenizer.json says what is put around a text, unless the settings do", () => {
  const llama3 = template([token("<|bos|>"), text("A")], [token("<|bos|>"), text("A"), token("<|bos|>"), text("B")]);
  const post = { type: "Sequence", processors: [{ type: "ByteLevel" }, llama3] };
  const ids = { bos_token_id: 3, eos_token_id: 5, padding_token_id: 4 };
  assert.deepEqual(describe({ post, settings: SETTINGS }), { ...ids, add_bos_token: true, add_sep_token: false });
  assert.deepEqual(describe({ post, settings: { ...SETTINGS, add_bos_token: false } }), {
    ...ids,
    add_bos_token: false,
    add_sep_token: false,
  });
  const other = template([token("<|eos|>"), text("A")]);
  assert.deepEqual(describe({ post: other, settings: SETTINGS }), { ...ids, add_bos_token: false });
  assert.deepEqual(describe({ post: other, settings: {} }), { bos_token_id: 4, add_bos_token: true });
});

test("a template that ends a text with another token than the settings' makes that token the end", () => {
  const post = template([text("A"), token("<|eos|>")], [text("A"), token("<|eos|>"), text("B"), token("<|eos|>")]);
  assert.deepEqual(describe({ post, settings: SETTINGS }), {
    bos_token_id: 3,
    eos_token_id: 4,
    padding_token_id: 4,
    eot_token_id: 5,
    add_eos_token: true,
    add_sep_token: false,
  });
  const separated = template([token("<|bos|>"), text("A")], [text("A"), token("<|eot|>"), text("B")]);
  assert.equal(describe({ post: separated, settings: SETTINGS }).add_sep_token, true);
});

test("added tokens that look special are control tokens, others are spelled as text has them", () => {
  const document = {
    added_tokens: TOKENS.map((content, at) => ({ id: at, content })),
    pre_tokenizer: { type: "ByteLevel", use_regex: true },
    model: { type: "BPE", vocab: {}, merges: [] },
  };
  const tokenizerJson = new TextEncoder().encode(JSON.stringify(document));
  const metadata = describeTokenizer({ tokenizerJson, tokenizerConfig: undefined, config: { vocab_size: 4 } });
  const of = (key: string) => {
    const entry = metadata.get(`tokenizer.ggml.${key}`);
    return entry?.kind === "array" ? entry.values.map((item) => ("value" in item ? item.value : undefined)) : [];
  };
  assert.deepEqual(of("tokens"), ["<|bos|>", "<|eos|>", "<|eot|>", "<tool call>"]);
  assert.deepEqual(of("token_type"), [3, 3, 3, 4]);
});
