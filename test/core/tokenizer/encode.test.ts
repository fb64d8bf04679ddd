// Encoding of text against the tokenizers library, which made test/golden/tokenizers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { createEncoder } from "../../../core/tokenizer/encode/encoder.ts";
import { assertRefused, type Expected } from "../../refusal.ts";
import { type TokenizerParts, tokenizerBytes } from "./tokenizers.ts";

type Variant = {
  readonly name: string;
  readonly family: string;
  readonly document?: Readonly<Record<string, unknown>>;
  readonly model?: Readonly<Record<string, unknown>>;
  readonly added?: readonly unknown[];
  readonly ids: readonly (readonly number[])[];
};

const GOLDEN = new URL("../../golden/", import.meta.url);
const { texts, variants }: { texts: readonly string[]; variants: readonly Variant[] } = JSON.parse(
  readFileSync(new URL("tokenizers/expected.json", GOLDEN), "utf8"),
);

for (const { name, family, document = {}, model = {}, added = [], ids } of variants) {
  test(`text is encoded as the tokenizers library encodes it: ${name}`, () => {
    const own = JSON.parse(readFileSync(new URL(`moe/models/${family}-base/tokenizer.json`, GOLDEN), "utf8"));
    const tokenizer = {
      ...own,
      ...document,
      model: { ...own.model, ...model },
      added_tokens: [...own.added_tokens, ...added],
    };
    const encode = createEncoder(new TextEncoder().encode(JSON.stringify(tokenizer)), { file: "tokenizer.json" });
    texts.forEach((text, index) => void assert.deepEqual(encode(text), ids[index], JSON.stringify(text)));
  });
}

const encoderOf = (parts: Partial<TokenizerParts>) =>
  createEncoder(tokenizerBytes({ vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"], ...parts }), {
    file: "tokenizer.json",
  });

test("a tokenizer that is not understood in every part is refused by it, and never run in part", () => {
  const preTokenizer = (step: unknown) => ({ document: { pre_tokenizer: step } });
  const regex = (pattern: string) => ({
    type: "Split",
    pattern: { Regex: pattern },
    behavior: "Isolated",
    invert: false,
  });
  const cases: readonly (readonly [Partial<TokenizerParts>, string])[] = [
    [preTokenizer(regex("(a+)+$")), "pre_tokenizer"],
    [
      preTokenizer({ type: "Sequence", pretokenizers: [regex("x"), { type: "Punctuation", behavior: "Isolated" }] }),
      "pre_tokenizer.1.type",
    ],
    [
      preTokenizer({ type: "Split", pattern: { String: "a" }, behavior: "MergedWithNext", invert: false }),
      "pre_tokenizer.0.behavior",
    ],
    [preTokenizer({ type: "Sequence", pretokenizers: Array(33).fill({ type: "Digits" }) }), "pre_tokenizer"],
    [{ document: { normalizer: { type: "Precompiled", precompiled_charsmap: "" } } }, "normalizer.0.type"],
    [
      { document: { normalizer: { type: "Replace", pattern: { Regex: "a" }, content: "" } } },
      "normalizer.0.pattern.String",
    ],
    [{ document: { normalizer: { type: "Prepend", prepend: "x".repeat(101) } } }, "normalizer.0.prepend"],
    [{ model: { type: "WordPiece", unk_token: "a" } }, "model.type"],
    [{ model: { dropout: 0.1 } }, "model.dropout"],
    [{ model: { end_of_word_suffix: "</w>" } }, "model.end_of_word_suffix"],
    [{ added: { ["x".repeat(1001)]: 3 } }, "added_tokens"],
    [
      { added: Object.fromEntries(Array.from({ length: 1020 }, (_, i) => ["x".repeat(990) + i, i + 3])) },
      "added_tokens",
    ],
  ];
  for (const [parts, field] of cases) {
    const expected: Expected = { code: "PlanTokenizerNotSupported", file: "tokenizer.json", field };
    assertRefused(() => encoderOf(parts), expected);
  }
  assertRefused(() => encoderOf({ merges: ["a x"] }), { code: "PlanTokenizerInvalid", field: "model.merges" });
  const encode = encoderOf({ model: { unk_token: "<unk>" } });
  assert.deepEqual(encode("abba"), [2, 1, 0]);
  assertRefused(() => encode("abc"), { code: "PlanTokenizerNotSupported", field: "model.unk_token" });
});

test("a long text is encoded in time that does not grow with its square", () => {
  const vocab = Object.fromEntries(["▁", "a", "aa", "aaaa", "a".repeat(8)].map((token, id) => [token, id]));
  const merges = [1, 2, 4].map((size): [string, string] => ["a".repeat(size), "a".repeat(size)]);
  const pre = { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false };
  const encode = encoderOf({ vocab, merges, document: { pre_tokenizer: pre } });
  const startedMs = performance.now();
  assert.deepEqual(encode("a".repeat(160_002)), [0, ...Array(20_000).fill(4), 2]);
  assert.ok(performance.now() - startedMs < 5000);
});
