// The tokenizer part of a recipe: which vocabulary the output has, which rows its embeddings are made of, which files
// say so, and what is refused.
import assert from "node:assert/strict";
import test from "node:test";
import type { MergePlan } from "../../../core/plan/plan-merge.ts";
import { ROWS_MEAN, ROWS_PADDING, ROWS_ZERO } from "../../../core/plan/schema.ts";
import { assertRefused } from "../../refusal.ts";
import { tokenizerBytes } from "../tokenizer/tokenizers.ts";
import {
  configOf,
  type Documents,
  type Models,
  makeCheckpoint,
  makeLlama,
  planText,
  tensorOf,
  tensorsOf,
} from "./checkpoints.ts";

const EMBED = "model.embed_tokens.weight";
const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

/** a: tokens p q r, b: r q s, c: q t u. */
const MODELS: Models = {
  a: makeLlama({ vocabulary: 3, layers: 1 }),
  b: makeLlama({ vocabulary: 3, layers: 1 }),
  c: makeLlama({ vocabulary: 3, layers: 1 }),
};
const DOCUMENTS: Documents = {
  a: { "tokenizer.json": tokenizerBytes({ vocab: { p: 0, q: 1, r: 2 } }) },
  b: { "tokenizer.json": tokenizerBytes({ vocab: { r: 0, q: 1, s: 2 } }) },
  c: { "tokenizer.json": tokenizerBytes({ vocab: { q: 0, t: 1, u: 2 } }) },
};

const recipe = (tokenizer: string, models = ["a", "b"], base = "") =>
  `merge_method: linear\nparameters: {weight: 1}\nmodels: [${models.map((model) => `{model: ${model}}`)}]\n` +
  `${base === "" ? "" : `base_model: ${base}\n`}tokenizer: ${tokenizer}\n`;

const plan = (text: string, models: Models = MODELS, documents: Documents = DOCUMENTS) =>
  planText(text, models, {}, documents);

/** Of every input of a tensor: the runs, with the name of the model that each is of. */
function runsOf(merged: MergePlan, name = EMBED) {
  const names = ["a", "b", "c", "d"];
  return tensorOf(merged, name).inputs.map((input) => {
    const tensors = [input, ...(input.rows?.others ?? [])];
    return input.rows?.runs.map(([from, first, rows]) => {
      const kinds = new Map([
        [ROWS_ZERO, "zero"],
        [ROWS_MEAN, "mean"],
        [ROWS_PADDING, "padding"],
      ]);
      return [kinds.get(from) ?? names[tensors[from]?.source ?? -1], first, rows];
    });
  });
}

test("a union has every model's rows in its order; a lone model's row stands in for the others'", () => {
  const merged = plan(recipe("{source: union}"));
  assert.deepEqual(tensorOf(merged, EMBED).shape, [4, 4]);
  assert.deepEqual(tensorOf(merged, "lm_head.weight").shape, [4, 4]);
  const own = [
    [
      ["a", 0, 3],
      ["b", 2, 1],
    ],
    [
      ["a", 0, 1],
      ["b", 1, 1],
      ["b", 0, 1],
      ["b", 2, 1],
    ],
  ];
  assert.deepEqual(runsOf(merged), own);
  assert.deepEqual(runsOf(merged, "lm_head.weight"), own);
  assert.equal(configOf(merged).vocab_size, 4);
  assert.ok([...tensorsOf(merged).values()].every(({ name, inputs }) => /embed|head/.test(name) || !inputs[0]?.rows));
});

test("a token that several models have but not all is the base's row, and without a base their mean", () => {
  const withBase = plan(recipe("{source: union}", ["a", "b", "c"], "b"));
  // b's ids first: r q s p t u. c lacks r: the base b has it.
  assert.deepEqual(runsOf(withBase)[2]?.[0], ["b", 0, 1]);
  const without = plan(recipe("{source: union}", ["a", "b", "c"]));
  // a's ids first: p q r s t u. c lacks r, which a and b have.
  assert.deepEqual(runsOf(without)[2], [
    ["a", 0, 1],
    ["c", 0, 1],
    ["mean", 0, 1],
    ["b", 2, 1],
    ["c", 1, 2],
  ]);
  const { rows } = tensorOf(without, EMBED).inputs[2] ?? {};
  assert.deepEqual(
    rows?.means.map((terms) => terms.map(([tensor, row]) => [rows.others[tensor - 1]?.source, row])),
    [
      [
        [0, 2],
        [1, 0],
      ],
    ],
  );
  assert.equal(rows?.dtype, "F32");
});

test("the recipe's tokens: another model's row, a row by token or id, zeros; forced on models that have one", () => {
  const tokens =
    "{q: {source: b, force: true}, r: {source: {kind: zero}}, " +
    '"<x>": {source: {kind: model_token, model: b, token: s}}, ' +
    '"<y>": {source: {kind: model_token, model: a, token_id: 2}}, "<z>": {}}';
  const merged = plan(recipe(`{source: base, tokens: ${tokens}}`, ["a", "b"], "a"));
  // a's p q r, then <x> <y> <z>.
  assert.deepEqual(runsOf(merged), [
    [
      ["a", 0, 1],
      ["b", 1, 1],
      ["a", 2, 1],
      ["b", 2, 1],
      ["a", 2, 1],
      ["zero", 0, 1],
    ],
    [
      ["a", 0, 1],
      ["b", 1, 1],
      ["b", 0, 1],
      ["b", 2, 1],
      ["a", 2, 1],
      ["zero", 0, 1],
    ],
  ]);
});

test("padding is the mean of each model's own rows, and is part of vocab_size", () => {
  const merged = plan(recipe("{source: base, pad_to_multiple_of: 8}", ["a", "b"], "a"));
  assert.deepEqual(runsOf(merged)[0], [
    ["a", 0, 3],
    ["padding", 0, 5],
  ]);
  assert.equal(configOf(merged).vocab_size, 8);
  assert.deepEqual(
    tensorOf(merged, EMBED).inputs.map(({ rows }) => rows?.dtype),
    ["F32", "F32"],
  );
});

test("models of one vocabulary are merged as if there were no tokenizer part, and their files are kept", () => {
  const sideFiles = ["merges.txt", "tokenizer.json", "vocab.json"].map((name) => ({ name, bytes: 10 }));
  const same = { a: makeLlama({ sideFiles }), b: makeLlama() };
  const tokens = tokenizerBytes({ vocab: Object.fromEntries([..."abcdefghij"].map((token, id) => [token, id])) });
  const documents = { a: { "tokenizer.json": tokens }, b: { "tokenizer.json": tokens } };
  const merged = plan(recipe("{source: union}"), same, documents);
  assert.ok(tensorOf(merged, EMBED).inputs.every(({ rows, cut }) => rows === undefined && cut === undefined));
  const files = merged.sideFiles.filter(({ name }) => sideFiles.some((file) => file.name === name));
  assert.deepEqual(
    files.map(({ name, from }) => [name, from]),
    sideFiles.map(({ name }) => [name, "source"]),
  );
});

test("a new vocabulary is written as one tokenizer.json with settings that fit, and older forms stay behind", () => {
  const sideFiles = [
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
  ];
  const models = {
    ...MODELS,
    a: makeLlama({ vocabulary: 4, layers: 1, sideFiles: sideFiles.map((name) => ({ name, bytes: 9 })) }),
  };
  const documents = {
    ...DOCUMENTS,
    a: {
      "tokenizer.json": tokenizerBytes({ vocab: { p: 0, q: 1, pq: 2 }, merges: ["p q"], added: { "<s>": 3 } }),
      "tokenizer_config.json": encode({ model_max_length: 512, bos_token: "<s>", added_tokens_decoder: {} }),
      "special_tokens_map.json": encode({ bos_token: "<s>" }),
    },
  };
  const merged = plan(recipe("{source: union}"), models, documents);
  const text = (name: string) => {
    const file = merged.sideFiles.find((entry) => entry.name === name);
    return file?.from === "text" ? JSON.parse(file.text) : file?.from;
  };
  assert.deepEqual(text("tokenizer.json").model.vocab, { p: 0, q: 1, pq: 2, "<s>": 3, r: 4, s: 5 });
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  assert.deepEqual(text("tokenizer_config.json"), {
    model_max_length: 512,
    bos_token: "<s>",
    added_tokens_decoder: { "3": { content: "<s>", ...flags } },
  });
  assert.deepEqual(text("special_tokens_map.json"), { bos_token: "<s>" });
  assert.equal(text("chat_template.jinja"), "source");
  assert.equal(text("merges.txt"), undefined);
  assert.ok(
    merged.warnings.some((warning) => /older forms are not copied: merges.txt/.test(warning)),
    String(merged.warnings),
  );
});

test("with another model's tokenizer the config's token ids are that tokenizer's", () => {
  const config = { bos_token_id: 2, eos_token_id: [0, 1], pad_token_id: null, vocab_size: 3 };
  const models = {
    ...MODELS,
    a: makeLlama({ vocabulary: 3, layers: 1, config, sideFiles: [{ name: "generation_config.json", bytes: 5 }] }),
  };
  const documents = {
    ...DOCUMENTS,
    a: { ...DOCUMENTS.a, "generation_config.json": encode({ eos_token_id: 2, top_k: 4 }) },
  };
  const merged = plan(recipe("{source: b}", ["a", "b"], "a"), models, documents);
  const { bos_token_id: bos, eos_token_id: eos, pad_token_id: pad } = configOf(merged);
  // r is 0 in b; p does not exist there and stays what it was.
  assert.deepEqual([bos, eos, pad], [0, [0, 1], null]);
  const generation = merged.sideFiles.find(({ name }) => name === "generation_config.json");
  assert.deepEqual(generation?.from === "text" && JSON.parse(generation.text), { eos_token_id: 0, top_k: 4 });
});

test("a model that is not merged can give tokens and rows", () => {
  const merged = plan(recipe("{source: base, tokens: {t: {source: c}}}", ["a", "b"], "a"));
  assert.deepEqual(runsOf(merged)[0], [
    ["a", 0, 3],
    ["c", 1, 1],
  ]);
});

test("an id that no token has is a row of the vocabulary's own model, and its unused rows go", () => {
  const models = { a: makeLlama({ vocabulary: 6, layers: 1 }), b: MODELS.b ?? makeLlama() };
  const documents = { ...DOCUMENTS, a: { "tokenizer.json": tokenizerBytes({ vocab: { q: 0, p: 1, r: 3 } }) } };
  const merged = plan(recipe("{source: base}", ["a", "b"], "a"), models, documents);
  assert.deepEqual(runsOf(merged), [
    [["a", 0, 4]],
    [
      ["b", 1, 1],
      ["a", 1, 2],
      ["b", 0, 1],
    ],
  ]);
  assert.deepEqual(tensorOf(merged, EMBED).shape, [4, 4]);
});

test("embeddings of different dtypes come as F32, and the output keeps the base's dtype", () => {
  const models = { a: makeLlama({ vocabulary: 3, layers: 1, dtype: "BF16" }), b: MODELS.b ?? makeLlama() };
  const merged = plan(recipe("{source: union}", ["a", "b"], "a"), models);
  const { dtype, inputs } = tensorOf(merged, EMBED);
  assert.equal(dtype, "BF16");
  assert.deepEqual(
    inputs.map(({ dtype: stored, rows }) => [stored, rows?.dtype]),
    [
      ["BF16", "F32"],
      ["F32", "F32"],
    ],
  );
});

test("the bias of a head has a row a token; another tensor of that length is merged as it is, with a warning", () => {
  const config = { vocab_size: 3, model_type: "x" };
  const shapes = { "wte.weight": [3, 4], "lm_head.bias": [3], output_scale: [3] };
  const models = { a: makeCheckpoint(shapes, { config }), b: makeCheckpoint(shapes, { config }) };
  const merged = plan(recipe("{source: union}"), models);
  assert.deepEqual(tensorOf(merged, "lm_head.bias").shape, [4]);
  assert.deepEqual(tensorOf(merged, "output_scale").shape, [3]);
  assert.ok(
    merged.warnings.some((warning) => /as long as a vocabulary.*output_scale/.test(warning)),
    String(merged.warnings),
  );
});

test("refused: tokenizers that are missing, malformed, or of kinds without a union; rows that are nowhere", () => {
  const unigram = tokenizerBytes({ vocab: {}, model: { type: "Unigram", vocab: [["x", 0]], merges: undefined } });
  const wide = makeCheckpoint({ [EMBED]: [3, 5] }, { config: { vocab_size: 3 } });
  const narrow = makeCheckpoint({ [EMBED]: [3, 4] }, { config: { vocab_size: 3 } });
  const union = recipe("{source: union}");
  assertRefused(() => plan(union, MODELS, { a: DOCUMENTS.a ?? {} }), {
    code: "PlanTokenizerMissing",
    model: "b",
    field: "tokenizer",
    line: 4,
  });
  assertRefused(() => plan(union, MODELS, { ...DOCUMENTS, b: { "tokenizer.json": encode({}) } }), {
    code: "PlanTokenizerInvalid",
    model: "b",
    file: "b/tokenizer.json",
    field: "model",
  });
  assertRefused(() => plan(union, MODELS, { ...DOCUMENTS, b: { "tokenizer.json": unigram } }), {
    code: "PlanTokenizersDiffer",
    model: "b",
    found: "a Unigram tokenizer",
  });
  assertRefused(() => plan(union, { a: narrow, b: wide }), { code: "PlanShapeMismatch", model: "b", tensor: EMBED });
  assertRefused(() => plan(recipe("{source: base, tokens: {t: {source: b}}}", ["a", "b"], "a")), {
    code: "PlanTokenMissing",
    model: "b",
    field: "tokenizer.tokens.t.source",
    found: "no such token",
  });
  const byId = "{source: base, tokens: {t: {source: {kind: model_token, model: b, token_id: 3}}}}";
  assertRefused(() => plan(recipe(byId, ["a", "b"], "a")), { code: "PlanTokenMissing", model: "b", found: "3 rows" });
  assertRefused(() => plan(recipe("{source: union, pad_to_multiple_of: 9000000}")), { code: "PlanTooLarge" });
  const config = { ...DOCUMENTS, a: { ...DOCUMENTS.a, "tokenizer_config.json": encode([]) } };
  assertRefused(() => plan(union, MODELS, config), { code: "PlanDocumentInvalid", file: "a/tokenizer_config.json" });
});
