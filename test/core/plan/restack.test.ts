// `slices`: layers stacked anew, renumbered, framed, with a config that fits.
import assert from "node:assert/strict";
import test from "node:test";
import { assertRefused, type Expected } from "../../refusal.ts";
import { configOf, type Models, makeCheckpoint, makeLlama, planText, tensorOf, tensorsOf } from "./checkpoints.ts";

const stack = (...slices: readonly string[]) =>
  `merge_method: passthrough\nslices:\n${slices.map((slice) => `  - sources: [${slice}]\n`).join("")}`;
const MODELS: Models = { a: makeLlama({ layers: 3 }), b: makeLlama({ layers: 4 }) };
const UP = (layer: number) => `model.layers.${layer}.mlp.up_proj.weight`;

test("output layers are numbered over all slices, each from the layer that its slice names", () => {
  const plan = planText(
    stack("{model: a, layer_range: [0, 2]}", "{model: b, layer_range: [1, 4]}", "{model: a, layer_range: [2, 3]}"),
    MODELS,
  );
  const origins = [0, 1, 2, 3, 4, 5].map((layer) =>
    tensorOf(plan, UP(layer)).inputs.map(({ source, tensor }) => [source, tensor]),
  );
  assert.deepEqual(origins, [[[0, UP(0)]], [[0, UP(1)]], [[1, UP(1)]], [[1, UP(2)]], [[1, UP(3)]], [[0, UP(2)]]]);
  assert.equal(tensorsOf(plan).has(UP(6)), false);
  assert.equal(configOf(plan).num_hidden_layers, 6);
});

test("a layer may be stacked twice, and its bytes are copied twice", () => {
  const plan = planText(stack("{model: a, layer_range: [0, 2]}", "{model: a, layer_range: [1, 3]}"), MODELS);
  assert.deepEqual(
    [1, 2].map((layer) => tensorOf(plan, UP(layer)).inputs[0]?.tensor),
    [UP(1), UP(1)],
  );
  assert.equal(tensorOf(plan, UP(1)).method, "copy");
});

test("what stands before the layers comes from the first slice, what stands after them from the last", () => {
  const plan = planText(stack("{model: a, layer_range: [0, 1]}", "{model: b, layer_range: [0, 1]}"), MODELS);
  const source = (name: string) => tensorOf(plan, name).inputs.map((input) => input.source);
  assert.deepEqual(source("model.embed_tokens.weight"), [0]);
  assert.deepEqual([source("model.norm.weight"), source("lm_head.weight")], [[1], [1]]);
});

test("surplus sources of the last slice take part after the layers, but under strict", () => {
  const weighted = (model: string) => `{model: ${model}, layer_range: [0, 1], parameters: {weight: 1}}`;
  const text = stack(weighted("a"), `${weighted("b")}, ${weighted("a")}`).replace("passthrough", "linear");
  const sources = (recipe: string, name: string) =>
    tensorOf(planText(recipe, MODELS), name).inputs.map((input) => input.source);
  assert.deepEqual(sources(text, "model.norm.weight"), [1, 0]);
  const strict = `${text}mergekit_compat: strict\n`;
  assert.deepEqual(sources(strict, "model.norm.weight"), [1]);
  assert.deepEqual(sources(strict, UP(1)), [1, 0]);
});

test("a last slice whose model ties its head fills the head that another model stores", () => {
  const models = { a: makeLlama(), b: makeLlama({ tied: true, head: false }) };
  const plan = planText(stack("{model: a, layer_range: [0, 1]}", "{model: b, layer_range: [0, 1]}"), models);
  assert.deepEqual(
    tensorOf(plan, "lm_head.weight").inputs.map(({ source, tensor }) => [source, tensor]),
    [[1, "model.embed_tokens.weight"]],
  );
});

test("a last slice whose model has no head at all is refused, or gives none when the recipe allows it", () => {
  const models = { a: makeLlama(), b: makeLlama({ tied: false, head: false }) };
  const text = stack("{model: a, layer_range: [0, 1]}", "{model: b, layer_range: [0, 1]}");
  assertRefused(() => planText(text, models), {
    code: "PlanTensorMissing",
    model: "b",
    tensor: "lm_head.weight",
    expected: "a tensor of every model, as in a",
  });
  assert.equal(tensorsOf(planText(`${text}allow_unlisted: copy\n`, models)).has("lm_head.weight"), false);
});

test("a tensor whose name does not say where it stands is taken from the first slice, with a warning", () => {
  const of = () => makeCheckpoint({ mystery: [2], "h.0.w": [2], "h.1.w": [2] });
  const plan = planText(stack("{model: a, layer_range: [0, 1]}", "{model: b, layer_range: [1, 2]}"), {
    a: of(),
    b: of(),
  });
  assert.deepEqual(
    tensorOf(plan, "mystery").inputs.map(({ source }) => source),
    [0],
  );
  assert.match(plan.warnings.join(), /mystery/);
});

test("positions of gradients run within each slice, and one layer is at the end", () => {
  const text = `
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [1, 4]}]
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]
parameters: {weight: [1, 3]}
`;
  const plan = planText(text, MODELS);
  assert.deepEqual(
    [0, 1, 2, 3].map((layer) => tensorOf(plan, UP(layer)).inputs[0]?.parameters.weight),
    [1, 2, 3, 3],
  );
  assert.equal(tensorOf(plan, "model.norm.weight").inputs[0]?.parameters.weight, 1);
});

test("filters of models look at the input's name, filters of the merge at the output's", () => {
  const text = `
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [2, 3]}]
parameters:
  t: [{filter: layers.0., value: 0.25}, {filter: layers.1., value: 0.75}, {value: 0.5}]
`;
  assert.equal(tensorOf(planText(text, MODELS), UP(0)).parameters.t, 0.25);
  const scaled = stack(
    "{model: a, layer_range: [1, 2], parameters: {scale: [{filter: layers.1., value: 3}, {value: 5}]}}",
  );
  assert.equal(tensorOf(planText(scaled, MODELS), UP(0)).inputs[0]?.parameters.scale, 3);
});

test("lists with one item a layer follow their layers, each from its own model's config", () => {
  const models = {
    a: makeLlama({ config: { layer_types: ["a0", "a1", "a2"], eos_token_id: [1, 2, 3] } }),
    b: makeLlama({ layers: 4, config: { layer_types: ["b0", "b1", "b2", "b3"] } }),
  };
  const config = configOf(
    planText(stack("{model: a, layer_range: [1, 3]}", "{model: b, layer_range: [3, 4]}"), models),
  );
  assert.deepEqual(config.layer_types, ["a1", "a2", "b3"]);
  assert.deepEqual(config.eos_token_id, [1, 2, 3]);
});

test("lists of the numbers of some layers name them where they are now", () => {
  const models = {
    a: makeLlama({ config: { moe_layers: [0, 1, 2], mlp_only_layers: [2], layers_shown: [0] } }),
    b: makeLlama({ layers: 4, config: { moe_layers: [1, 3], mlp_only_layers: [] } }),
  };
  const slices = [
    "{model: a, layer_range: [1, 3]}",
    "{model: b, layer_range: [2, 4]}",
    "{model: a, layer_range: [2, 3]}",
  ];
  const config = configOf(planText(stack(...slices), models));
  assert.deepEqual(config.moe_layers, [0, 1, 3, 4]);
  assert.deepEqual(config.mlp_only_layers, [1, 4]);
  assert.deepEqual(config.layers_shown, [0], "nobody knows what it is");
});

test("the language part of a nested config is changed, the donor's own is not", () => {
  const config = {
    num_hidden_layers: undefined,
    text_config: { num_hidden_layers: 3, vocab_size: 10, layer_types: ["x", "y", "z"] },
  };
  const models = { a: makeLlama({ config }) };
  const written = configOf(planText(stack("{model: a, layer_range: [0, 2]}"), models));
  assert.deepEqual(written.text_config, { num_hidden_layers: 2, vocab_size: 10, layer_types: ["x", "y"] });
  assert.equal(config.text_config.num_hidden_layers, 3);
});

test("refused: ten thousand slices that stack a million tensors, before any is made", () => {
  const shapes = Object.fromEntries(Array.from({ length: 120 }, (_, tensor) => [`h.0.w${tensor}`, [1]]));
  const text = stack(...Array.from({ length: 10_000 }, () => "{model: a, layer_range: [0, 1]}"));
  const models = { a: makeCheckpoint(shapes) };
  assertRefused(() => planText(text, models), { code: "PlanTooLarge", field: "slices", found: "1200000 tensors" });
});

const TWO_STACKS = { a: makeCheckpoint({ "encoder.block.0.w": [2], "decoder.block.0.w": [2] }) };
const REFUSALS: readonly (readonly [string, string, Models, Expected])[] = [
  [
    "layers that the model does not have",
    stack("{model: a, layer_range: [1, 4]}"),
    MODELS,
    { code: "PlanLayersOutside", model: "a", field: "slices[0].sources[0].layer_range", line: 3, found: "[1, 4]" },
  ],
  [
    "layers of a model without one stack",
    stack("{model: a, layer_range: [0, 1]}"),
    TWO_STACKS,
    { code: "PlanLayersUnknown", model: "a", line: 3 },
  ],
  [
    "layers of a model without layers",
    stack("{model: a, layer_range: [0, 1]}"),
    { a: makeCheckpoint({ w: [2] }) },
    { code: "PlanLayersUnknown", found: "no layers" },
  ],
  [
    "whole models of different depth in one slice",
    stack("{model: a}, {model: b}"),
    MODELS,
    { code: "RecipeLayerRangesUnequal", model: "b", found: "4 layers" },
  ],
];

for (const [what, text, models, expected] of REFUSALS) {
  test(`refused: ${what}`, () => void assertRefused(() => planText(text, models), expected));
}
