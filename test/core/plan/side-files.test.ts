// The files around the weights: what is written, what is copied from whom, what stays behind.
import assert from "node:assert/strict";
import test from "node:test";
import { completeModelCard } from "../../../core/plan/model-card.ts";
import { configOf, type Models, makeCheckpoint, makeLlama, planText } from "./checkpoints.ts";

const linearOf = (...models: readonly string[]) =>
  [
    "merge_method: linear\nmodels:\n",
    ...models.map((model) => `  - {model: ${model}, parameters: {weight: 1}}\n`),
  ].join("");
const files = (...names: readonly string[]) => names.map((name) => ({ name, bytes: 7 }));

function listFiles(text: string, models: Models, shardBytes?: number): Record<string, string | number> {
  const { sideFiles } = planText(text, models, { shardBytes });
  return Object.fromEntries(sideFiles.map((file) => [file.name, file.from === "source" ? file.source : "written"]));
}

test("config, index and card are written; generation, tokenizer and processor files come whole from one parent", () => {
  const side = files(
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "README.md",
  );
  const models = { a: makeLlama({ sideFiles: files("tokenizer.model") }), b: makeLlama({ sideFiles: side }) };
  assert.deepEqual(listFiles(`${linearOf("a", "b")}base_model: b\n`, models), {
    "README.md": "written",
    "config.json": "written",
    "generation_config.json": 1,
    "preprocessor_config.json": 1,
    "tokenizer.json": 1,
    "tokenizer_config.json": 1,
  });
  assert.deepEqual(listFiles(linearOf("a", "b"), models), {
    "README.md": "written",
    "config.json": "written",
    "tokenizer.model": 0,
  });
});

test("every parent's licence travels, under its own name but for the config's parent", () => {
  const sideFiles = files("LICENSE", "NOTICE");
  const models = {
    "org/a": makeLlama({ sideFiles }),
    "org/b": makeLlama({ sideFiles }),
    "org-b": makeLlama({ sideFiles }),
  };
  const listed = listFiles(linearOf("org/a", "org/b", "org-b"), models);
  assert.deepEqual(
    Object.entries(listed).filter(([, source]) => source !== "written"),
    [
      ["LICENSE", 0],
      ["LICENSE.org-b", 1],
      ["LICENSE.org-b-2", 2],
      ["NOTICE", 0],
      ["NOTICE.org-b", 1],
      ["NOTICE.org-b-2", 2],
    ],
  );
});

test("a licence's new name never takes the place of a file of the config's parent", () => {
  const models = {
    b: makeLlama({ sideFiles: files("LICENSE") }),
    a: makeLlama({ sideFiles: files("LICENSE", "LICENSE.b") }),
  };
  const listed = listFiles(`${linearOf("b", "a")}base_model: a\n`, models);
  assert.deepEqual([listed.LICENSE, listed["LICENSE.b"], listed["LICENSE.b-2"]], [1, 1, 0]);
});

test("code and unknown files stay behind and are named", () => {
  const { sideFiles, warnings } = planText(linearOf("a"), {
    a: makeLlama({ sideFiles: files("modeling_x.py", "notes.xyz") }),
  });
  assert.deepEqual(
    sideFiles.map(({ name }) => name),
    ["README.md", "config.json"],
  );
  assert.deepEqual(
    warnings.map((warning) => /modeling_x\.py|notes\.xyz/.exec(warning)?.[0]),
    ["modeling_x.py", "notes.xyz"],
  );
});

test("several files have an index that names the file of every tensor", () => {
  const plan = planText(linearOf("a"), { a: makeLlama() }, { shardBytes: 300 });
  const index = plan.sideFiles.find(({ name }) => name === "model.safetensors.index.json");
  assert.ok(index?.from === "text");
  const parsed: { metadata: { total_size: number }; weight_map: Record<string, string> } = JSON.parse(index.text);
  const placed = plan.units.flatMap(({ file, tensors }) => tensors.map(({ name }) => [name, file] as const));
  assert.ok(plan.units.length > 1);
  assert.deepEqual(parsed.weight_map, Object.fromEntries(placed.sort(([a], [b]) => (a < b ? -1 : 1))));
  assert.equal(
    parsed.metadata.total_size,
    plan.units.flatMap(({ tensors }) => tensors).reduce((sum, { bytes }) => sum + bytes, 0),
  );
});

test("the config keeps what the merge does not touch and drops what no longer holds", () => {
  const config = {
    _name_or_path: "x",
    rope_theta: 5e5,
    rope_scaling: { type: "yarn" },
    time_step_limit: [0, Number.POSITIVE_INFINITY],
  };
  const plan = planText(`${linearOf("a")}dtype: bfloat16\n`, { a: makeLlama({ config }) });
  const file = plan.sideFiles.find(({ name }) => name === "config.json");
  assert.ok(file?.from === "text");
  assert.match(file.text, /"time_step_limit": \[\s*0,\s*Infinity\s*\]/);
  const written: Record<string, unknown> = JSON.parse(file.text.replace("Infinity", '"inf"'));
  assert.equal("_name_or_path" in written, false);
  assert.deepEqual(
    [written.torch_dtype, written.rope_theta, written.rope_scaling, written.vocab_size, written.num_hidden_layers],
    ["bfloat16", 5e5, { type: "yarn" }, 10, 3],
  );
});

test("a config that spells the dtype `dtype` goes on doing so", () => {
  const models = { a: makeCheckpoint({ x: [4] }, { config: { dtype: "float32" } }) };
  assert.deepEqual(configOf(planText(`${linearOf("a")}dtype: bfloat16\n`, models)), { dtype: "bfloat16" });
});

test("the vocabulary is the embedding's rows after a cut", () => {
  const plan = planText(linearOf("a", "b"), { a: makeLlama({ vocabulary: 12 }), b: makeLlama({ vocabulary: 10 }) });
  assert.equal(configOf(plan).vocab_size, 10);
});

test("a tied base merged with a parent whose head is its own is no longer tied", () => {
  const models = { a: makeLlama({ tied: true, head: false }), b: makeLlama({ tied: false }) };
  assert.equal(configOf(planText(linearOf("a", "b"), models)).tie_word_embeddings, false);
  const nested = { a: makeLlama({ config: { text_config: { tie_word_embeddings: true } } }), b: models.b };
  assert.deepEqual(configOf(planText(linearOf("a", "b"), nested)).text_config, { tie_word_embeddings: false });
  const tied = { a: makeLlama({ tied: true }), b: makeLlama({ tied: true, head: false }) };
  assert.equal(configOf(planText(linearOf("a", "b"), tied)).tie_word_embeddings, true);
});

test("config_source lets differing configs through, and says what differs", () => {
  const models = { a: makeLlama(), b: makeLlama({ config: { num_attention_heads: 4, rope_theta: 2 } }) };
  const plan = planText(`${linearOf("a", "b")}config_source: b\n`, models);
  assert.equal(configOf(plan).num_attention_heads, 4);
  assert.deepEqual(plan.warnings.filter((warning) => /num_attention_heads/.test(warning)).length, 1);
});

test("a value that only changes behaviour is a warning", () => {
  const models = { a: makeLlama({ config: { rope_theta: 1 } }), b: makeLlama({ config: { rope_theta: 2 } }) };
  assert.match(planText(linearOf("a", "b"), models).warnings.join(), /rope_theta differs between a and b/);
});

test("override_architecture of the config's parent is the output's architecture", () => {
  const text = "merge_method: passthrough\nmodels: [{model: {model: a, override_architecture: OtherForCausalLM}}]\n";
  assert.deepEqual(configOf(planText(text, { a: makeLlama() })).architectures, ["OtherForCausalLM"]);
});

test("quantized weights that are only copied keep their quantization_config", () => {
  const config = { quantization_config: { quant_method: "fp8" } };
  const models = { a: makeCheckpoint({ x: { dtype: "F8_E4M3", shape: [4] } }, { config }) };
  assert.deepEqual(
    configOf(planText("merge_method: passthrough\nmodels: [{model: a}]\n", models)).quantization_config,
    { quant_method: "fp8" },
  );
});

test("a model without a config gives an output without one, and a warning", () => {
  const { config: _, ...rest } = makeCheckpoint({ x: [4] });
  const plan = planText(linearOf("a"), { a: { ...rest, config: undefined } });
  assert.equal(
    plan.sideFiles.some(({ name }) => name === "config.json"),
    false,
  );
  assert.match(plan.warnings.join(), /no config\.json/);
});

test("the card names method, paper, models and recipe, and takes the digests later", () => {
  const text = `${linearOf("a|b", "c")}# a fence \`\`\` in a comment\n`;
  const plan = planText(text, { "a|b": makeLlama(), c: makeLlama() });
  const card = plan.sideFiles.find(({ name }) => name === "README.md");
  assert.ok(card?.from === "text");
  const complete = completeModelCard(card.text, ["sha256:12", undefined]);
  assert.match(complete, /arXiv:2203\.05482/);
  assert.match(complete, /\| a\\\|b \| sha256:12 \|/);
  assert.match(complete, /\| c \| not digested \|/);
  assert.ok(complete.includes(`\`\`\`\`yaml\n${text.trimEnd()}\n\`\`\`\`\n`));
  assert.equal(/digest of source/.test(complete), false);
});
