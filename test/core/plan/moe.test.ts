// Mixtures of experts out of dense models, from headers: the architecture, names, and every refusal.
import assert from "node:assert/strict";
import test from "node:test";
import type { Checkpoint } from "../../../core/checkpoint.ts";
import { normaliseRecipe } from "../../../core/recipe/normalise.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { assertRefused, type Expected } from "../../refusal.ts";
import { tokenizerBytes } from "../tokenizer/tokenizers.ts";
import {
  configOf,
  type Models,
  makeDense,
  planDocuments,
  planText,
  type Shapes,
  tensorOf,
  tensorsOf,
} from "./checkpoints.ts";

const recipe = (more = "", experts = "[{source_model: a}, {source_model: b}]") =>
  `base_model: base\nexperts: ${experts}\n${more.includes("gate_mode") ? "" : "gate_mode: random\n"}${more}`;
const LLAMAS: Models = { base: makeDense(), a: makeDense(), b: makeDense() };

test("llama models become Mixtral: copies under its names, and routers that the planner makes", () => {
  const plan = planText(recipe("dtype: float32\n"), LLAMAS);
  const names = [...tensorsOf(plan).keys()].filter((name) => name.startsWith("model.layers.1."));
  assert.deepEqual(names, [
    "model.layers.1.block_sparse_moe.experts.0.w1.weight",
    "model.layers.1.block_sparse_moe.experts.0.w2.weight",
    "model.layers.1.block_sparse_moe.experts.0.w3.weight",
    "model.layers.1.block_sparse_moe.experts.1.w1.weight",
    "model.layers.1.block_sparse_moe.experts.1.w2.weight",
    "model.layers.1.block_sparse_moe.experts.1.w3.weight",
    "model.layers.1.block_sparse_moe.gate.weight",
    "model.layers.1.input_layernorm.weight",
    "model.layers.1.post_attention_layernorm.weight",
    "model.layers.1.self_attn.k_proj.weight",
    "model.layers.1.self_attn.o_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.self_attn.v_proj.weight",
  ]);
  const expert = tensorOf(plan, "model.layers.1.block_sparse_moe.experts.1.w2.weight");
  assert.deepEqual(
    [expert.method, expert.inputs[0]?.tensor, expert.inputs[0]?.source],
    ["copy", "model.layers.1.mlp.down_proj.weight", 2],
  );
  const gate = tensorOf(plan, "model.layers.0.block_sparse_moe.gate.weight");
  assert.deepEqual([gate.method, gate.dtype, gate.shape], ["moe_router", "F32", [2, 4]]);
  assert.deepEqual(plan.warnings, []);
  const config = configOf(plan);
  assert.deepEqual([config.model_type, config.num_local_experts, config.num_experts_per_tok], ["mixtral", 2, 2]);
  assert.deepEqual([config.rope_theta, config.num_key_value_heads, config.sliding_window], [10_000, 2, null]);
});

test("a scale is of an expert's last matrix, noise of all; what neither changes is copied", () => {
  const experts = "[{source_model: a, residual_scale: 0.5}, {source_model: b, noise_scale: 0.1}]";
  const plan = planText(recipe("", experts), LLAMAS);
  const methods = [0, 1].map((expert) =>
    ["w1", "w2", "w3"].map((part) => {
      const { method, inputs } = tensorOf(plan, `model.layers.0.block_sparse_moe.experts.${expert}.${part}.weight`);
      return [method, inputs[0]?.parameters];
    }),
  );
  const [scaled, noisy] = [{ scale: 0.5 }, { noise: 0.1 }];
  assert.deepEqual(methods, [
    [
      ["copy", {}],
      ["moe_expert", scaled],
      ["copy", {}],
    ],
    [
      ["moe_expert", noisy],
      ["moe_expert", noisy],
      ["moe_expert", noisy],
    ],
  ]);
});

test("the architecture follows from models and shared experts, or is named by its beginning", () => {
  const shared = "shared_experts: [{source_model: a}]\n";
  const norms = Object.fromEntries(
    [0, 1].flatMap((layer) => ["q", "k"].map((part) => [`model.layers.${layer}.self_attn.${part}_norm.weight`, [2]])),
  );
  const of = (type: string, more: Shapes = {}): Models => {
    const model = makeDense({ type, more });
    return { base: model, a: model, b: model };
  };
  const cases: readonly (readonly [string, Models, string])[] = [
    ["", of("mistral"), "mixtral"],
    [shared, LLAMAS, "deepseek"],
    ["architecture: DEEP\n", LLAMAS, "deepseek"],
    [`${shared}architecture: qwen\n`, LLAMAS, "qwen2_moe"],
    [shared, of("qwen2"), "qwen2_moe"],
    ["", of("qwen3", norms), "qwen3_moe"],
  ];
  for (const [more, models, type] of cases) {
    assert.equal(configOf(planText(recipe(more), models)).model_type, type, more);
  }
  const { warnings } = planText(recipe(shared), LLAMAS);
  assert.match(warnings.join(), /^DeepSeek MoE is made; write `architecture: Qwen MoE`/);
});

test("qwen's biases are zeros where the base has none, and the base's where it has", () => {
  const bias = { "model.layers.0.self_attn.q_proj.bias": [4] };
  const model = makeDense({ type: "qwen2", more: bias });
  const plan = planText(recipe("shared_experts: [{source_model: a}]\ndtype: bfloat16\n"), {
    base: model,
    a: model,
    b: model,
  });
  const own = tensorOf(plan, "model.layers.0.self_attn.q_proj.bias");
  const zeros = tensorOf(plan, "model.layers.1.self_attn.q_proj.bias");
  assert.deepEqual([own.method, own.inputs[0]?.rows], ["moe_expert", undefined]);
  assert.deepEqual(
    [zeros.method, zeros.dtype, zeros.shape, zeros.inputs[0]?.rows?.runs],
    ["copy", "BF16", [4], [[-1, 0, 4]]],
  );
  assert.deepEqual(tensorOf(plan, "model.layers.1.mlp.shared_expert_gate.weight").shape, [1, 4]);
});

test("the dtype is the recipe's, else what the base's config says", () => {
  const dtypeOf = (more: string, config: Record<string, unknown>) =>
    tensorOf(
      planText(recipe(more), { ...LLAMAS, base: makeDense({ config }) }),
      "model.layers.0.block_sparse_moe.gate.weight",
    ).dtype;
  assert.equal(dtypeOf("", {}), "F32");
  assert.equal(dtypeOf("", { torch_dtype: "bfloat16" }), "BF16");
  assert.equal(dtypeOf("", { dtype: "float16" }), "F16");
  assert.equal(dtypeOf("dtype: float16\n", { dtype: "bfloat16" }), "F16");
});

test("what works and may be a mistake is warned of", () => {
  const three = planText(recipe("", "[{source_model: a}, {source_model: b}, {source_model: a}]"), LLAMAS);
  assert.match(three.warnings.join(), /^3 experts are no power of two/);
  const surplus = makeDense({ more: { "model.layers.0.self_attn.rotary_emb.inv_freq": [2] } });
  assert.equal(tensorsOf(planText(recipe(), { ...LLAMAS, base: surplus })).size, 2 + 1 + 2 * 13);
});

test("models that make no mixture are refused by what does not fit", () => {
  const cases: readonly (readonly [string, Models, Expected])[] = [
    [
      "",
      { ...LLAMAS, a: makeDense({ type: "mistral" }) },
      { code: "MoeArchitectureRefused", field: "base_model", found: /llama and mistral/ },
    ],
    ["", { ...LLAMAS, base: makeDense({ type: "gemma" }) }, { code: "MoeArchitectureRefused", found: /gemma/ }],
    ["architecture: switch\n", LLAMAS, { code: "MoeArchitectureRefused", field: "architecture", found: "switch" }],
    [
      "architecture: mixtral\nshared_experts: [{source_model: a}]\n",
      LLAMAS,
      { code: "MoeArchitectureRefused", field: "architecture", expected: /^Mixtral: .* no shared expert$/ },
    ],
    [
      "shared_experts: [{source_model: a}, {source_model: b}]\n",
      LLAMAS,
      { code: "MoeArchitectureRefused", found: "llama models, 2 shared experts" },
    ],
    [
      "",
      { ...LLAMAS, base: makeDense({ more: { "model.layers.0.self_attn.q_proj.bias": [4] } }) },
      { code: "MoeArchitectureRefused", tensor: "model.layers.0.self_attn.q_proj.bias" },
    ],
    [
      "",
      { ...LLAMAS, b: makeDense({ inner: 7 }) },
      { code: "PlanShapeMismatch", field: "experts[1]", model: "b", found: "[7, 4]" },
    ],
    ["", { ...LLAMAS, b: makeDense({ layers: 3 }) }, { code: "PlanLayersUnequal", field: "experts[1]", model: "b" }],
    [
      "",
      { ...LLAMAS, a: makeDense({ more: { "model.layers.0.mlp.up_proj.weight": { dtype: "I8", shape: [6, 4] } } }) },
      {
        code: "PlanDtypeNotMergeable",
        field: "experts[0]",
        model: "a",
        found: "I8",
      },
    ],
  ];
  for (const [more, models, expected] of cases) assertRefused(() => planText(recipe(more), models), expected);
  const { tensors, ...others } = makeDense();
  const without = (name: string): Checkpoint => ({
    ...others,
    tensors: tensors.filter((entry) => entry.name !== name),
  });
  for (const [model, name, field] of [
    ["a", "model.layers.1.mlp.up_proj.weight", "experts[0]"],
    ["base", "model.layers.1.mlp.up_proj.weight", "base_model"],
    ["base", "model.layers.1.self_attn.o_proj.weight", "base_model"],
  ] as const) {
    const models = { ...LLAMAS, [model]: without(name) };
    assertRefused(() => planText(recipe(), models), { code: "PlanTensorMissing", model, tensor: name, field });
  }
});

test("a recipe of experts is refused by field and line before any model is looked at", () => {
  const normalise = (text: string) => normaliseRecipe(readRecipe(new TextEncoder().encode(text), "recipe.yaml"));
  const cases: readonly (readonly [string, Expected])[] = [
    [recipe("gate_mode: hidden\n"), { code: "RecipeFieldInvalid", field: "experts[0].positive_prompts", line: 2 }],
    [
      "base_model: base\nexperts: [{source_model: a}, {source_model: b}]\n",
      { code: "RecipeFieldInvalid", field: "experts[0].positive_prompts", expected: /gate_mode: hidden/ },
    ],
    [recipe("gate_mode: best\n"), { code: "RecipeFieldInvalid", field: "gate_mode" }],
    [
      recipe("experts_per_token: 3\n"),
      { code: "RecipeFieldInvalid", field: "experts_per_token", expected: /at most 2/ },
    ],
    [recipe("experts_per_token: 0\n"), { code: "RecipeFieldInvalid", field: "experts_per_token" }],
    [recipe("", "[]"), { code: "RecipeFieldInvalid", field: "experts" }],
    [recipe("dtype: int64\n"), { code: "RecipeNotSupported", field: "dtype" }],
    [recipe("expert: 3\n"), { code: "RecipeUnknownKey", field: "expert", expected: "experts" }],
    [
      recipe("", "[{source_model: a, positive_prompt: [x]}]"),
      { code: "RecipeUnknownKey", expected: "positive_prompts" },
    ],
    ["experts: [{source_model: a}]\n", { code: "RecipeFieldInvalid", field: "base_model" }],
    ["merge_method: moe_expert\nmodels: [{model: a}]\n", { code: "RecipeMethodUnknown", field: "merge_method" }],
  ];
  for (const [text, expected] of cases) {
    if (expected.code === "RecipeMethodUnknown") assertRefused(() => planText(text, LLAMAS), expected);
    else assertRefused(() => normalise(text), expected);
  }
  const { warnings } = normalise(recipe("tokenizer_source: union\n"));
  assert.match(warnings.join(), /^tokenizer_source \(line 4\) is ignored here/);
});

test("the merge part of a pipeline takes such a recipe too", () => {
  const text = `name: mixture\nmerge:\n${recipe("random_seed: 4\n").replaceAll(/^/gm, "  ")}\npublish: {model: m}\n`;
  const { seed, moe } = normaliseRecipe(readRecipe(new TextEncoder().encode(text), "recipe.yaml"));
  assert.deepEqual([seed, moe?.experts.length, moe?.active], [4, 2, 2]);
});

/** Bytes of text as tokens 0 to 9, `<s>` in front. */
const TOKENIZER = tokenizerBytes({
  vocab: Object.fromEntries([..."abcdefgh"].map((token, id) => [token, id])),
  added: { "<s>": 8 },
});
const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const gated = (experts: string, more = "") =>
  planText(recipe(`gate_mode: cheap_embed\n${more}`, experts), LLAMAS, {}, { base: { "tokenizer.json": TOKENIZER } });

test("gates of prompts are means of the rows of their tokens, negative prompts apart", () => {
  const documents = (config: unknown) => ({
    base: { "tokenizer.json": TOKENIZER, ...(config === undefined ? {} : { "tokenizer_config.json": text(config) }) },
  });
  const experts =
    "[{source_model: a, positive_prompts: [ab, c]}, {source_model: b, positive_prompts: [h], negative_prompts: [aa]}]";
  const inputsOf = (config: unknown, more = "") => {
    const plan = planText(recipe(`gate_mode: cheap_embed\n${more}`, experts), LLAMAS, {}, documents(config));
    return tensorOf(plan, "model.layers.1.block_sparse_moe.gate.weight").inputs.map(({ tensor, rows }) => {
      assert.deepEqual([tensor, rows?.dtype, rows?.others], ["model.embed_tokens.weight", "F32", []]);
      return { runs: rows?.runs, means: rows?.means.map((mean) => mean.map(([, row]) => row)) };
    });
  };
  const plain = [
    {
      runs: [
        [-2, 0, 1],
        [-2, 1, 1],
      ],
      means: [[0, 1, 2], [7]],
    },
    {
      runs: [
        [-1, 0, 1],
        [-2, 0, 1],
      ],
      means: [[0, 0]],
    },
  ];
  assert.deepEqual(inputsOf(undefined), plain);
  assert.deepEqual(inputsOf({ bos_token: null, tokenizer_class: "LlamaTokenizer" }), plain);
  const begun = [
    [
      [8, 0, 1, 8, 2],
      [8, 7],
    ],
    [[8, 0, 0]],
  ];
  for (const config of [
    { bos_token: "<s>" },
    { bos_token: { content: "<s>" } },
    { tokenizer_class: "LlamaTokenizer" },
  ]) {
    assert.deepEqual(
      inputsOf(config).map(({ means }) => means),
      begun,
    );
  }
});

test("prompts that make no gates are refused", () => {
  const two = (a: string, b: string) => `[{source_model: a${a}}, {source_model: b${b}}]`;
  const some = ", positive_prompts: [a]";
  const cases: readonly (readonly [string, Expected])[] = [
    [two(some, ""), { code: "RecipeFieldInvalid", field: "experts[1].positive_prompts", found: "none" }],
    [two(some, some), { code: "RecipeFieldInvalid", field: "experts[1].positive_prompts", found: /same prompts/ }],
    [two(", positive_prompts: [1]", some), { code: "RecipeFieldInvalid", field: "experts[0].positive_prompts[0]" }],
  ];
  for (const [experts, expected] of cases) assertRefused(() => gated(experts), expected);
  const good = two(some, ", positive_prompts: [b]");
  assert.deepEqual(gated(good).warnings, []);
  assert.match(gated(good.replace("b,", "a,")).warnings.join(), /^all experts are the same model/);
  const shared = "shared_experts: [{source_model: a}]\n";
  assertRefused(() => gated(good, `${shared}architecture: qwen moe\n`), { code: "MoeArchitectureRefused" });
  assertRefused(() => planText(recipe("gate_mode: cheap_embed\n", good), LLAMAS), {
    code: "PlanTokenizerMissing",
    field: "gate_mode",
    model: "base",
  });
  const big = tokenizerBytes({ vocab: { a: 0, b: 10 } });
  const models: Models = { ...LLAMAS, base: makeDense() };
  assertRefused(
    () => planText(recipe("gate_mode: cheap_embed\n", good), models, {}, { base: { "tokenizer.json": big } }),
    { code: "PlanTokenMissing", field: "experts[1]", found: "10 rows", expected: "row 10" },
  );
  const long = two(`, positive_prompts: [${"a".repeat(60_000)}]`, some);
  const deep = makeDense({ layers: 40 });
  assertRefused(
    () =>
      planText(
        recipe("gate_mode: cheap_embed\n", long),
        { base: deep, a: deep, b: deep },
        {},
        {
          base: { "tokenizer.json": TOKENIZER },
        },
      ),
    { code: "PlanTooLarge", field: "experts[0]" },
  );
});

const PROMPTED = "[{source_model: a, positive_prompts: [ab, c]}, {source_model: b, positive_prompts: [h]}]";
/** A base whose config says all that a pass over it needs, or otherwise. */
const running = (config: Record<string, unknown> = {}, more: Shapes = {}): Models => {
  const base = makeDense({ more, config: { rms_norm_eps: 1e-5, head_dim: 2, ...config } });
  return { ...LLAMAS, base };
};
const planHidden = (models: Models, mode = "hidden") =>
  planDocuments(recipe(`gate_mode: ${mode}\n`, PROMPTED), models, { base: { "tokenizer.json": TOKENIZER } });

test("gates from hidden states are a document of their own, of which routers are rows", () => {
  const { documents, output, sources } = planHidden(running());
  assert.deepEqual(
    sources.map(({ model, state }) => [model, state]),
    [
      ["base", "foreign"],
      ["a", "foreign"],
      ["b", "foreign"],
      ["gates+of+experts", "merged"],
    ],
  );
  const gates = documents[0] && tensorOf(documents[0].plan, "gates");
  assert.deepEqual([gates?.method, gates?.dtype, gates?.shape], ["moe_gates", "F32", [4, 4]]);
  const { prompts, tokens, average, heads, keyHeads, headSize, inner } = gates?.parameters ?? {};
  assert.deepEqual([prompts, tokens, average], ["[[[2,1],[]],[[1],[]]]", 4, false]);
  assert.deepEqual([heads, keyHeads, headSize, inner], [2, 2, 2, 6]);
  const [embedding, ...weights] = gates?.inputs ?? [];
  assert.deepEqual(embedding?.rows?.runs, [
    [0, 0, 1],
    [0, 1, 1],
    [0, 2, 1],
    [0, 7, 1],
  ]);
  // The last layer's states are what goes into it.
  assert.deepEqual(
    weights.map(({ tensor }) => tensor.replace("model.layers.0.", "").replace(".weight", "")),
    [
      "input_layernorm",
      ..."qkvo".split("").map((part) => `self_attn.${part}_proj`),
      "post_attention_layernorm",
      ...["gate", "up", "down"].map((part) => `mlp.${part}_proj`),
    ],
  );
  const router = tensorOf(output, "model.layers.1.block_sparse_moe.gate.weight");
  const [input] = router.inputs;
  assert.deepEqual([router.method, router.shape, input?.source, input?.tensor], ["copy", [2, 4], 3, "gates"]);
  assert.deepEqual(input?.rows?.runs, [[0, 2, 2]]);
  assert.equal(documents.length, 2);
  const base = { ...makeDense({ config: { rms_norm_eps: 1e-5 } }), sideFiles: [{ name: "notes.txt", bytes: 1 }] };
  assert.equal(planHidden({ ...LLAMAS, base }).warnings.length, 1);
});

test("rotary frequencies are scaled as the base's config says", () => {
  const frequenciesOf = (config: Record<string, unknown>) => {
    const [first] = planHidden(running({ head_dim: 4, num_attention_heads: 1, ...config })).documents;
    assert.ok(first !== undefined);
    return JSON.parse(String(tensorOf(first.plan, "gates").parameters.frequencies));
  };
  assert.deepEqual(frequenciesOf({}), [1, 0.01]);
  assert.deepEqual(frequenciesOf({ rope_parameters: { rope_theta: 100 } }), [1, 0.1]);
  assert.deepEqual(frequenciesOf({ rope_scaling: { type: "linear", factor: 2 } }), [0.5, 0.005]);
  const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
  const scaled = (original: number) =>
    frequenciesOf({ rope_scaling: { ...llama3, original_max_position_embeddings: original } });
  // Waves of 2 pi and of 200 pi positions: shorter than a quarter of the context, longer than all of it.
  assert.deepEqual(scaled(100), [1, 0.00125]);
  // Half the context: a third of the way from a factor of 1 / 8 to one of 1.
  const between = scaled(400 * Math.PI - ((400 * Math.PI) % 1))[1];
  assert.ok(Math.abs(between - 0.01 * (1 / 3 + 2 / 3 / 8)) < 1e-5, String(between));
});

test("a base that is not run is refused by what is not known of it", () => {
  const cases: readonly (readonly [Models, RegExp])[] = [
    [running({ hidden_act: "gelu" }), /hidden_act/],
    [running({ rope_scaling: { rope_type: "yarn", factor: 4 } }), /scaled by yarn/],
    [running({ rope_scaling: { rope_type: "llama3", factor: 4 } }), /scaled by llama3/],
    [running({ head_dim: 1, num_attention_heads: 4 }), /4 heads of 1/],
    [running({ sliding_window: 1 }), /a prompt of 2 tokens, a sliding window of 1/],
    [running({ num_attention_heads: undefined }), /num_attention_heads/],
  ];
  for (const [models, found] of cases) {
    assertRefused(() => planHidden(models), { code: "RecipeNotSupported", field: "gate_mode", model: "base", found });
  }
  planHidden(running({ sliding_window: 1, use_sliding_window: false }));
  const odd = running({}, { "model.layers.0.mlp.up_proj.weight": [7, 4] });
  assertRefused(() => planHidden(odd), { code: "PlanShapeMismatch", tensor: "model.layers.0.mlp.up_proj.weight" });
  const short = running({}, { "model.layers.0.input_layernorm.weight": [3] });
  assertRefused(() => planHidden(short), { code: "PlanShapeMismatch", found: "[3]" });
  const whole = running({}, { "model.layers.0.self_attn.q_proj.weight": { dtype: "I8", shape: [4, 4] } });
  assertRefused(() => planHidden(whole), { code: "PlanDtypeNotMergeable", found: "I8", field: "base_model" });
  assertRefused(() => planDocuments(recipe("gate_mode: hidden_avg\n", PROMPTED), running()), {
    code: "PlanTokenizerMissing",
    field: "gate_mode",
  });
  const wide = makeDense({ inner: 1000, config: { rms_norm_eps: 1e-5 } });
  const [prompts, options] = [PROMPTED.replace("h", "a".repeat(60_000)), { memoryBytes: 256 * 2 ** 20 }];
  const [models, documents] = [{ base: wide, a: wide, b: wide }, { base: { "tokenizer.json": TOKENIZER } }];
  const planned = (experts: string) =>
    planDocuments(recipe("gate_mode: hidden\n", experts), models, documents, options);
  planned(PROMPTED);
  assertRefused(() => planned(prompts), { code: "PlanMemoryExceeded", field: "experts", tensor: "gates" });
  const silent = PROMPTED.replace("[h]", "[zz]");
  assertRefused(
    () => planDocuments(recipe("gate_mode: hidden\n", silent), running(), { base: { "tokenizer.json": TOKENIZER } }),
    { code: "RecipeNotSupported", found: "a prompt of no tokens" },
  );
});
