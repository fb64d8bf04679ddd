// Ids of special tokens of byte-level BPE, and what is put around a text, as llama.cpp's converter finds them: files of
// instruct models name in config.json another end than in the settings.
import assert from "node:assert/strict";
import { test } from "node:test";
import { describeTokenizer, GGUF_SPLITS } from "../../../core/formats/gguf/tokenizer.ts";
import { describeTokenizerFiles } from "../../../core/formats/gguf/tokenizer-files.ts";
import { rebuildTokenizer } from "../../../core/formats/gguf/tokenizer-json.ts";

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

test("a family has special tokens of its own where no file names one", () => {
  const config = { model_type: "glm4", eos_token_id: 4 };
  const document = {
    added_tokens: ["<|endoftext|>", "<|user|>"].map((content, at) => ({ id: 3 + at, content })),
    pre_tokenizer: { type: "ByteLevel", use_regex: true },
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"] },
  };
  const tokenizerJson = new TextEncoder().encode(JSON.stringify(document));
  const metadata = describeTokenizer({ tokenizerJson, tokenizerConfig: {}, config: { ...config, vocab_size: 8 } });
  const of = (key: string) => metadata.get(`tokenizer.ggml.${key}_token_id`);
  assert.deepEqual(
    ["bos", "eos", "unknown", "eot"].map(of),
    [3, 4, 3, 4].map((value) => ({ kind: "u32", value })),
  );
});

const LEVEL = { type: "ByteLevel", add_prefix_space: false };
const split = (Regex: string, change: object = {}) => ({
  type: "Split",
  pattern: { Regex },
  behavior: "Isolated",
  invert: false,
  ...change,
});
const DIGITS = { type: "Digits", individual_digits: true };
const list = (...pretokenizers: object[]) => ({ type: "Sequence", pretokenizers });
const patternOf = (name: string) => GGUF_SPLITS.find((each) => each.name === name)?.pattern ?? "";

function nameOf(pre_tokenizer: object, model: object = {}, normalizer: object | null = null): unknown {
  const document = {
    normalizer,
    pre_tokenizer,
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"], ...model },
  };
  const tokenizerJson = new TextEncoder().encode(JSON.stringify(document));
  const metadata = describeTokenizer({ tokenizerJson, tokenizerConfig: undefined, config: { vocab_size: 3 } });
  const entry = metadata.get("tokenizer.ggml.pre");
  return entry?.kind === "string" ? entry.value : undefined;
}

test("ways of splitting are told apart by pattern, digits, normalizer, and whether whole tokens are merged", () => {
  const llama = list(split(patternOf("llama-bpe")), { ...LEVEL, use_regex: false });
  const inverse = split(patternOf("llama-bpe"), { behavior: "Removed", invert: true });
  const digits = list(DIGITS, { ...LEVEL, use_regex: true });
  for (const [pre, model, normalizer, name] of [
    [llama, { ignore_merges: true }, null, "llama-bpe"],
    [llama, {}, null, "dbrx"],
    [list(inverse, { ...LEVEL, use_regex: false }), {}, null, "dbrx"],
    [list(split(patternOf("qwen2")), { ...LEVEL, use_regex: false }), {}, { type: "NFC" }, "qwen2"],
    [digits, {}, null, "smollm"],
    [digits, {}, { type: "NFC" }, "command-r"],
    [list({ ...LEVEL, use_regex: true }), {}, null, "gpt-2"],
  ] as const) {
    assert.equal(nameOf(pre, model, normalizer), name);
  }
  const refusal = { code: "QuantizeTokenizerUnsupported" };
  for (const pre of [
    list(split("\\s+"), { ...LEVEL, use_regex: false }),
    list(split(patternOf("dbrx")), { ...LEVEL, use_regex: true }),
    list(split(patternOf("dbrx"), { behavior: "Removed" }), { ...LEVEL, use_regex: false }),
    list(split(patternOf("dbrx")), split(patternOf("dbrx")), { ...LEVEL, use_regex: false }),
    list(split(patternOf("dbrx"))),
    list(DIGITS, DIGITS, LEVEL),
    { ...LEVEL, add_prefix_space: true },
    { type: "Whitespace" },
  ]) {
    assert.throws(() => nameOf(pre), refusal);
  }
  assert.throws(() => nameOf(LEVEL, { ignore_merges: true }), refusal);
});

test("every named way of splitting is spelled out so that it has the same name again", () => {
  for (const { name } of GGUF_SPLITS) {
    const tokens = ["a", "b", "ab"].map((value) => ({ kind: "string", value }) as const);
    const { documents } = rebuildTokenizer(
      new Map([
        ["tokenizer.ggml.model", { kind: "string", value: "gpt2" }],
        ["tokenizer.ggml.pre", { kind: "string", value: name }],
        ["tokenizer.ggml.tokens", { kind: "array", element: "string", values: tokens }],
        ["tokenizer.ggml.merges", { kind: "array", element: "string", values: [{ kind: "string", value: "a b" }] }],
      ]),
    );
    const [, tokenizerJson = new Uint8Array(0)] = documents[0] ?? [];
    const again = describeTokenizer({ tokenizerJson, tokenizerConfig: undefined, config: { vocab_size: 3 } });
    assert.deepEqual(again.get("tokenizer.ggml.pre"), { kind: "string", value: name });
  }
});

test("of several chat templates the one for everything is kept", () => {
  const level = { pre_tokenizer: { type: "ByteLevel" }, model: { type: "BPE", vocab: { a: 0 }, merges: [] } };
  const chat_template = [
    { name: "rag", template: "{{r}}" },
    { name: "default", template: "{{d}}" },
  ];
  const encode = (value: object) => new TextEncoder().encode(JSON.stringify(value));
  const files = new Map([
    ["tokenizer.json", encode(level)],
    ["tokenizer_config.json", encode({ chat_template })],
  ]);
  const metadata = describeTokenizerFiles(files, { vocab_size: 1 });
  assert.deepEqual(metadata?.get("tokenizer.chat_template"), { kind: "string", value: "{{d}}" });
});
