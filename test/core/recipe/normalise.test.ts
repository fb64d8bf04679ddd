import assert from "node:assert/strict";
import test from "node:test";
import { normaliseRecipe, placeOfSource } from "../../../core/recipe/normalise.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { assertRefused, type Expected } from "../../refusal.ts";

const normalise = (text: string) => normaliseRecipe(readRecipe(new TextEncoder().encode(text), "recipe.yaml"));
const modelNames = (text: string) => normalise(text).slices.map(({ sources }) => sources.map(({ model }) => model));

test("models are one slice over all layers, a base that is not listed comes last and has no settings", () => {
  const recipe = normalise(
    "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 2}\n" +
      "models:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b}\n",
  );
  assert.equal(recipe.restacks, false);
  assert.equal(recipe.slices.length, 1);
  const [slice] = recipe.slices;
  assert.deepEqual(
    slice?.sources.map(({ model, layers }) => [model, layers]),
    [
      ["a", undefined],
      ["b", undefined],
      ["base", undefined],
    ],
  );
  assert.deepEqual(
    slice?.sources.map(({ level }) => Object.keys(level.settings)),
    [["weight"], [], []],
  );
  assert.deepEqual(
    slice?.levels.map(({ settings }) => Object.keys(settings)),
    [["lambda"]],
  );
  assert.equal(slice?.base, "base");
  assert.deepEqual(
    recipe.references.map(({ model }) => model),
    ["a", "b", "base"],
  );
});

test("a listed base stays where it is", () => {
  assert.deepEqual(modelNames("merge_method: x\nbase_model: b\nmodels: [{model: a}, {model: b}, {model: c}]\n"), [
    ["a", "b", "c"],
  ]);
});

test("slices keep their own order, ranges, settings and base; the base is not added", () => {
  const recipe = normalise(`
merge_method: linear
base_model: base
parameters: {normalize: false}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3], parameters: {weight: 3}}]
    parameters: {weight: 2}
  - sources: [{model: c, layer_range: ["4", 5.0]}]
    base_model: c
`);
  assert.equal(recipe.restacks, true);
  assert.deepEqual(
    recipe.slices.map(({ base, sources }) => [base, sources.map(({ model, layers }) => [model, layers])]),
    [
      [
        "base",
        [
          ["a", { from: 0, count: 2 }],
          ["b", { from: 1, count: 2 }],
        ],
      ],
      ["c", [["c", { from: 4, count: 1 }]]],
    ],
  );
  assert.deepEqual(
    recipe.slices[0]?.levels.map(({ field, settings }) => [field.join("."), Object.keys(settings)]),
    [
      ["slices.0.parameters", ["weight"]],
      ["parameters", ["normalize"]],
    ],
  );
  assert.deepEqual(
    recipe.references.map(({ model }) => model),
    ["a", "b", "c", "base"],
  );
});

test("the output dtype is out_dtype, else dtype, with or without torch. in front", () => {
  const cases: readonly (readonly [string, string | undefined])[] = [
    ["", undefined],
    ["dtype: bfloat16", "BF16"],
    ["dtype: torch.float16", "F16"],
    ["dtype: bfloat16\nout_dtype: float32", "F32"],
    ["out_dtype: torch.bfloat16", "BF16"],
  ];
  for (const [lines, dtype] of cases) {
    assert.equal(normalise(`merge_method: x\nmodels: [{model: a}]\n${lines}\n`).outputDtype, dtype, lines);
  }
});

test("empty lists count as absent", () => {
  assert.deepEqual(modelNames("merge_method: x\nmodels: [{model: a}]\nslices: []\nmodules: {}\n"), [["a"]]);
});

test("our own keys have their defaults", () => {
  const { allowUnlisted, onMismatch, nonFinite, strict, seed, configSource } = normalise(
    "merge_method: x\nmodels: [{model: a}]\n",
  );
  assert.deepEqual(
    [allowUnlisted, onMismatch, nonFinite, strict, seed, configSource],
    [undefined, "error", "error", false, 0, undefined],
  );
});

test("a repeated model under strict has the later layers at the first place with the first settings", () => {
  const recipe = normalise(`
merge_method: linear
mergekit_compat: strict
slices:
  - sources:
      - {model: a, layer_range: [0, 1], parameters: {weight: 1}}
      - {model: b, layer_range: [0, 1]}
      - {model: a, layer_range: [2, 3], parameters: {weight: 9}}
`);
  const [first, second, third] = recipe.slices[0]?.sources ?? [];
  assert.deepEqual([first?.model, second?.model, third], ["a", "b", undefined]);
  assert.deepEqual(first?.layers, { from: 2, count: 1 });
  assert.deepEqual(first?.level.settings, { weight: { kind: "scalar", value: 1 } });
});

test("config_source names a model of the recipe, or the base", () => {
  const source = (line: string) =>
    normalise(`merge_method: x\nmodels: [{model: a}, {model: b}]\n${line}\n`).configSource;
  assert.equal(source("config_source: b"), "b");
  assert.equal(source("config_source: base"), "a");
  assert.equal(source("config_source: base\nbase_model: b"), "b");
});

test("residual_weight is read, and said to have no effect", () => {
  const text = "merge_method: x\nslices: [{sources: [{model: a, layer_range: [0, 1]}], residual_weight: 0.5}]\n";
  assert.equal(normalise(text).warnings.length, 1);
});

const MODELS = "merge_method: linear\nmodels:\n  - {model: a}\n  - {model: b}\n";
const slices = (...sources: readonly string[]) =>
  `merge_method: linear\nslices:\n  - sources:\n${sources.map((source) => `      - ${source}\n`).join("")}`;

const REFUSALS: readonly (readonly [string, string, Expected])[] = [
  ["neither models nor slices", "merge_method: linear\n", { code: "RecipeFieldInvalid", found: "none of them" }],
  [
    "models and slices",
    `${MODELS}slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n`,
    { code: "RecipeFieldInvalid", field: "slices", line: 5, found: "models and slices" },
  ],
  [
    "a model listed twice",
    `${MODELS}  - {model: a}\n`,
    { code: "RecipeModelRepeated", field: "models[2]", line: 5, model: "a" },
  ],
  [
    "a model listed twice in a slice",
    slices("{model: a, layer_range: [0, 1]}", "{model: a, layer_range: [1, 2]}"),
    { code: "RecipeModelRepeated", field: "slices[0].sources[1]", line: 5, model: "a" },
  ],
  [
    "empty lists, which count as none",
    "merge_method: linear\nmodels: []\nslices: []\n",
    { code: "RecipeFieldInvalid", found: "none of them", expected: "exactly one of models, slices, modules" },
  ],
  [
    "ranges of different length",
    slices("{model: a, layer_range: [0, 2]}", "{model: b, layer_range: [0, 3]}"),
    { code: "RecipeLayerRangesUnequal", field: "slices[0]", line: 3, found: "2, 3 layers" },
  ],
  [
    "an empty range",
    slices("{model: a, layer_range: [2, 2]}"),
    { code: "RecipeFieldInvalid", field: "slices[0].sources[0].layer_range", line: 4 },
  ],
  [
    "a range that runs backwards",
    slices("{model: a, layer_range: [3, 2]}"),
    { code: "RecipeFieldInvalid", found: "[3, 2]" },
  ],
  [
    "a config_source that is no model of the recipe",
    `${MODELS}config_source: c\n`,
    { code: "RecipeFieldInvalid", field: "config_source", found: "c" },
  ],
  [
    "a module with neither models nor slices",
    "merge_method: linear\nmodules: {text: {parameters: {weight: 1}}}\n",
    { code: "RecipeFieldInvalid", field: "modules.text", found: "none of them", line: 2 },
  ],
  [
    "modules and models",
    `${MODELS}modules: {text: {models: [{model: a}]}}\n`,
    { code: "RecipeFieldInvalid", field: "modules", found: "models and modules" },
  ],
  [
    "a model listed twice in a module",
    "merge_method: linear\nmodules: {text: {models: [{model: a}, {model: a}]}}\n",
    { code: "RecipeModelRepeated", field: "modules.text.models[1]" },
  ],
  [
    "two tokenizers",
    `${MODELS}tokenizer: {source: union}\ntokenizer_source: base\n`,
    { code: "RecipeFieldInvalid", field: "tokenizer_source", line: 6 },
  ],
  [
    "a token's row by token and by id",
    `${MODELS}tokenizer: {tokens: {x: {source: {kind: model_token, model: a, token: y, token_id: 1}}}}\n`,
    { code: "RecipeFieldInvalid", field: "tokenizer.tokens.x.source", found: "both token and token_id" },
  ],
  [
    "a token's row by neither",
    `${MODELS}tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}\n`,
    { code: "RecipeFieldInvalid", field: "tokenizer.tokens.x.source", found: "neither token nor token_id" },
  ],
  [
    "a chat template that is neither a name nor a template",
    `${MODELS}chat_template: chatlm\n`,
    { code: "RecipeFieldInvalid", field: "chat_template", line: 5, found: '"chatlm"' },
  ],
  [
    "a short template",
    `${MODELS}chat_template: "{{ messages }}"\n`,
    { code: "RecipeFieldInvalid", field: "chat_template" },
  ],
  ["whole numbers as dtype", `${MODELS}dtype: int64\n`, { code: "RecipeNotSupported", field: "dtype", line: 5 }],
  [
    "whole numbers as out_dtype",
    `${MODELS}out_dtype: int64\n`,
    { code: "RecipeNotSupported", field: "out_dtype", line: 5, found: "int64" },
  ],
];

for (const [what, text, expected] of REFUSALS) {
  test(`refused: ${what}`, () => void assertRefused(() => normalise(text), expected));
}

test("modules have slices of their own, with their parameters between the slice's and the top's", () => {
  const { modules, slices, restacks, references } = normalise(
    "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 1}\nmodules:\n" +
      "  vision_tower: {models: [{model: a}], parameters: {weight: 2}}\n" +
      "  language_model: {slices: [{sources: [{model: b, layer_range: [0, 2]}], parameters: {weight: 3}}]}\n",
  );
  assert.deepEqual(
    modules.map(({ name, restacks: stacked }) => [name, stacked]),
    [
      ["vision_tower", false],
      ["language_model", true],
    ],
  );
  assert.deepEqual(
    slices.map(({ sources }) => sources.map(({ model }) => model)),
    [["a", "base"], ["b"]],
    "the base joins models, not slices",
  );
  assert.deepEqual(
    slices.map(({ levels }) => levels.map(({ field }) => field.join("."))),
    [
      ["modules.vision_tower.parameters", "parameters"],
      ["modules.language_model.slices.0.parameters", "modules.language_model.parameters", "parameters"],
    ],
  );
  assert.equal(restacks, true);
  assert.deepEqual(
    references.map(({ model }) => model),
    ["a", "b", "base"],
  );
});

test("what has to be found is models without their adapters, and adapters, each once", () => {
  const recipe = normalise(
    "merge_method: linear\nmodels:\n  - model: a+x\n  - model: a@v2+x\n  - model: b\nbase_model: a\n",
  );
  assert.deepEqual(
    recipe.references.map(({ model }) => model),
    ["a+x", "a@v2+x", "b", "a"],
  );
  assert.deepEqual(recipe.sources, ["a", "x", "a@v2", "b"]);
});

test("a source has the place where the recipe names it first, in whichever document", () => {
  const text =
    "name: one\nmerge_method: linear\nmodels:\n  - model: a+x\n---\nmerge_method: linear\nmodels:\n" +
    "  - model: one\n  - model: a\n  - model: b\ntokenizer: {source: c}\n";
  const parsed = readRecipe(new TextEncoder().encode(text), "recipe.yaml");
  const places = ["a", "x", "b", "c", "nowhere"].map((source) => placeOfSource(parsed, source));
  assert.deepEqual(places, [
    { file: "recipe.yaml", field: "models[0].model", line: 4 },
    { file: "recipe.yaml", field: "models[0].model", line: 4 },
    { file: "recipe.yaml", field: "models[2].model", line: 10 },
    { file: "recipe.yaml", field: "tokenizer.source", line: 11 },
    {},
  ]);
});

test("the old name of a tokenizer's source is the new one's, and models that only give tokens come last", () => {
  const old = normalise(`${MODELS}tokenizer_source: c\n`);
  const { source, rules } = normalise(`${MODELS}tokenizer: {source: c}\n`).tokenizer ?? {};
  assert.deepEqual([old.tokenizer?.source, old.tokenizer?.rules], [source, rules]);
  assert.deepEqual(
    old.references.map(({ model }) => model),
    ["a", "b", "c"],
  );
  assert.equal(normalise(MODELS).tokenizer, undefined);
});

test("inside a pipeline file the fields are named from its start", () => {
  const text = "name: x\nmerge:\n  merge_method: linear\n  models:\n    - {model: a}\n    - {model: a}\n";
  assertRefused(() => normalise(text), { code: "RecipeModelRepeated", field: "merge.models[1]", line: 6 });
});
