import assert from "node:assert/strict";
import test from "node:test";
import * as z from "zod";
import { normaliseRecipe } from "../../../core/recipe/normalise.ts";
import {
  checkParameters,
  createResolver,
  findIdleFilters,
  type ParameterSchemas,
} from "../../../core/recipe/parameters.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { assertRefused, type Expected } from "../../refusal.ts";

const normalise = (text: string) => normaliseRecipe(readRecipe(new TextEncoder().encode(text), "recipe.yaml"));

/** A method with one parameter of every kind. */
const METHOD: ParameterSchemas = {
  id: "sample",
  base: "required",
  parameters: z.strictObject({
    normalize: z.boolean().default(true),
    lambda: z.number().default(1),
    max_iter: z.int().positive().default(10),
    t: z.number().optional(),
  }),
  modelParameters: z.strictObject({ weight: z.number(), density: z.number().min(0).max(1).default(1) }),
};

const recipeOf = (...lines: readonly string[]) =>
  normalise(["merge_method: sample", "base_model: base", "models:", "  - model: a", ...lines].join("\n"));

function resolve(lines: readonly string[], tensor = "model.layers.1.mlp.weight", position = 0.5) {
  const recipe = recipeOf(...lines);
  const resolver = createResolver(recipe, METHOD);
  const [slice] = recipe.slices;
  assert.ok(slice !== undefined);
  const target = { slice, position, tensor };
  return {
    global: () => resolver.global(target),
    model: (index: number) => {
      const source = slice.sources[index];
      assert.ok(source !== undefined);
      return resolver.model({ ...target, source });
    },
  };
}

test("defaults come from the method's schemas", () => {
  const { global, model } = resolve(["    parameters: {weight: 1}"]);
  assert.deepEqual(global(), { normalize: true, lambda: 1, max_iter: 10 });
  assert.deepEqual(model(0), { weight: 1, density: 1 });
});

test("the nearest level that has a value for the tensor decides", () => {
  const text = `
merge_method: sample
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: 1}]}}
      - {model: b, layer_range: [0, 2]}
    parameters: {weight: [{filter: attn, value: 2}], lambda: 5}
parameters: {weight: 3, lambda: 6}
`;
  const recipe = normalise(text);
  const resolver = createResolver(recipe, METHOD);
  const [slice] = recipe.slices;
  const [a, b] = slice?.sources ?? [];
  assert.ok(slice !== undefined && a !== undefined && b !== undefined);
  const weight = (source: typeof a, tensor: string) => resolver.model({ slice, source, tensor, position: 0 }).weight;
  assert.deepEqual([weight(a, "l.mlp.w"), weight(a, "l.attn.w"), weight(a, "l.norm.w")], [1, 2, 3]);
  assert.deepEqual([weight(b, "l.mlp.w"), weight(b, "l.attn.w"), weight(b, "l.norm.w")], [3, 2, 3]);
  assert.equal(resolver.global({ slice, tensor: "l.mlp.w", position: 0 }).lambda, 5);
});

test("a parameter of the whole merge skips the models' own settings", () => {
  assert.equal(resolve(["    parameters: {weight: 1, lambda: 7}"]).global().lambda, 1);
});

test("gradients run over the layers of the slice", () => {
  const lines = ["    parameters: {weight: [0, 10]}"];
  assert.equal(resolve(lines, "x", 0).model(0).weight, 0);
  assert.equal(resolve(lines, "x", 0.25).model(0).weight, 2.5);
});

test("true and 1, false and 0 are the same to a parameter, whichever it wants", () => {
  const top = (value: string) =>
    resolve(["    parameters: {weight: 1}", `parameters: {normalize: ${value}, lambda: ${value}}`]).global();
  assert.deepEqual([top("true").normalize, top("true").lambda], [true, 1]);
  assert.deepEqual([top("0").normalize, top("0").lambda], [false, 0]);
  assert.deepEqual([top('"1"').normalize, top('"1"').lambda], [true, 1]);
});

test("parameters that a model must have are not required of the base", () => {
  const { model } = resolve(["    parameters: {weight: 1}"]);
  assert.deepEqual(model(1), { density: 1 });
});

test("values are checked once and never mixed up between tensors", () => {
  const recipe = recipeOf("    parameters: {weight: [0, 1]}");
  const resolver = createResolver(recipe, METHOD);
  const [slice] = recipe.slices;
  const [source] = slice?.sources ?? [];
  assert.ok(slice !== undefined && source !== undefined);
  const weights = [0, 0.5, 1, 0.5, 0].map(
    (position) => resolver.model({ slice, source, tensor: "x", position }).weight,
  );
  assert.deepEqual(weights, [0, 0.5, 1, 0.5, 0]);
});

const WHERE = { model: "a", tensor: "model.layers.1.mlp.weight" };
const VALUE_REFUSALS: readonly (readonly [string, readonly string[], Expected])[] = [
  [
    "a model without a required parameter",
    [],
    { code: "RecipeParameterMissing", field: "models[0]", line: 4, ...WHERE, expected: "weight" },
  ],
  [
    "a filter that leaves a required parameter without a value",
    ["    parameters: {weight: [{filter: attn, value: 1}]}"],
    { code: "RecipeParameterMissing", ...WHERE },
  ],
  [
    "a value out of the schema's range",
    ["    parameters: {weight: 1, density: 1.5}"],
    { code: "RecipeParameterInvalid", field: "models[0].parameters.density", line: 5, ...WHERE, found: "1.5" },
  ],
  [
    "a gradient that leaves the schema's range at this layer",
    ["    parameters: {weight: 1, density: [0, 4]}"],
    { code: "RecipeParameterInvalid", field: "models[0].parameters.density", ...WHERE, found: "2" },
  ],
  [
    "true where a number is wanted that 1 is not",
    ["    parameters: {weight: 1, density: 2}"],
    { code: "RecipeParameterInvalid", found: "2" },
  ],
];

for (const [what, lines, expected] of VALUE_REFUSALS) {
  test(`refused: ${what}`, () => void assertRefused(() => resolve(lines).model(0), expected));
}

test("refused: half an iteration", () => {
  const { global } = resolve(["    parameters: {weight: 1}", "parameters: {max_iter: 2.5}"]);
  assertRefused(global, { code: "RecipeParameterInvalid", field: "parameters.max_iter", line: 6, found: "2.5" });
});

test("refused: 2 for a parameter that is true or false", () => {
  const { global } = resolve(["    parameters: {weight: 1}", "parameters: {normalize: 2}"]);
  assertRefused(global, { code: "RecipeParameterInvalid", field: "parameters.normalize", found: "2" });
});

test("refused before any tensor is looked at: misspelt names, and gradients of true and false", () => {
  const check = (...lines: readonly string[]) => checkParameters(recipeOf(...lines), METHOD);
  assertRefused(() => check("    parameters: {wieght: 1}"), {
    code: "RecipeParameterUnknown",
    field: "models[0].parameters.wieght",
    line: 5,
    expected: "weight",
  });
  assertRefused(() => check("parameters: {lamda: 1}"), {
    code: "RecipeParameterUnknown",
    field: "parameters.lamda",
    expected: "lambda",
  });
  assertRefused(() => check("parameters: {normalize: [0, 1]}"), {
    code: "RecipeParameterInvalid",
    field: "parameters.normalize",
    found: "a gradient",
  });
  assertRefused(() => check("parameters: {normalize: [{filter: mlp, value: [0, 1]}]}"), {
    code: "RecipeParameterInvalid",
  });
});

test("names of other methods' parameters, and all names under strict, are warnings", () => {
  assert.equal(checkParameters(recipeOf("    parameters: {weight: 1, gamma: 0.1}"), METHOD).length, 1);
  assert.equal(
    checkParameters(recipeOf("mergekit_compat: strict", "parameters: {lamda: 1, foo: 2}"), METHOD).length,
    2,
  );
  assert.deepEqual(checkParameters(recipeOf("    parameters: {weight: 1}"), METHOD), []);
});

test("a parameter of the whole merge given to a model is a warning", () => {
  assert.equal(checkParameters(recipeOf("    parameters: {weight: 1, normalize: false}"), METHOD).length, 1);
});

test("what a recipe says of a base in vain is a warning", () => {
  const base = ["    parameters: {weight: 1}", "  - {model: base, parameters: {weight: 0.5}}"];
  const check = (lines: readonly string[], kind: typeof METHOD.base) =>
    checkParameters(recipeOf(...lines), { ...METHOD, base: kind });
  assert.deepEqual(check(base, "required"), [
    "models[1].parameters.weight: sample gives its base no weight; it has no effect",
  ]);
  assert.deepEqual(check(base, "none"), []);
  assert.deepEqual(check(base.slice(0, 1), "none"), [
    "base_model (line 2): sample sets no base apart; base is merged like the other models",
  ]);
  assert.deepEqual(check(base.slice(0, 1), "optional"), []);
});

test("a filter that is part of no name is a warning with its line; one that is, is none", () => {
  const recipe = recipeOf(
    "    parameters:",
    "      weight:",
    "        - {filter: mpl, value: 1}",
    "        - {filter: mlp, value: 1}",
    "        - value: 2",
  );
  const warnings = findIdleFilters(recipe, new Set(["model.layers.0.mlp.up_proj.weight"]));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /^models\[0\]\.parameters\.weight\[0\]\.filter \(line 7\)/);
});
