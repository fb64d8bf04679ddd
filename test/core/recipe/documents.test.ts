// Files of several documents: their order, which is the output, and what is refused.
import assert from "node:assert/strict";
import test from "node:test";
import { listSources, normaliseRecipe } from "../../../core/recipe/normalise.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { assertRefused, type Expected } from "../../refusal.ts";

const read = (...documents: readonly string[]) =>
  readRecipe(new TextEncoder().encode(documents.join("---\n")), "recipe.yaml");
const normalise = (...documents: readonly string[]) => normaliseRecipe(read(...documents));

/** A merge of these models. */
const merge = (name: string | undefined, ...models: readonly string[]) =>
  `${name === undefined ? "" : `name: ${name}\n`}merge_method: linear\nparameters: {weight: 1}\n` +
  `models: [${models.map((model) => `{model: ${model}}`).join(", ")}]\n`;

const orderOf = (recipe: ReturnType<typeof normalise>) => recipe.stages.map(({ name }) => name);

test("documents come before those that use them, whatever their order in the file", () => {
  const documents = [merge("late", "early", "x"), merge(undefined, "late", "early"), merge("early", "y", "x")];
  for (const order of [documents, [...documents].reverse()]) {
    const recipe = normalise(...order);
    assert.deepEqual(orderOf(recipe), ["early", "late"]);
    assert.deepEqual(
      recipe.references.map(({ model }) => model),
      ["late", "early"],
    );
    assert.deepEqual([...listSources(recipe)].sort(), ["x", "y"]);
  }
});

test("a result is used as a base, in slices, for tokens and as the config's source", () => {
  const stage = merge("s", "x");
  const output = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: y}]\n";
  const slices = "merge_method: passthrough\nslices: [{sources: [{model: s, layer_range: [0, 1]}]}]\n";
  for (const text of [
    `${output}base_model: s\n`,
    slices,
    `${output}tokenizer_source: s\n`,
    `${output}tokenizer: {tokens: {t: {source: {kind: model_token, model: s, token: u}}}}\n`,
    `${output}models: [{model: {model: {path: s}}}]\n`.replace("models: [{model: y}]\n", ""),
  ]) {
    assert.deepEqual(orderOf(normalise(stage, text)), ["s"], text);
  }
  const revision = normalise(stage, `${output}base_model: s@main\n`);
  assert.deepEqual(orderOf(revision), [], "a revision is of a model elsewhere");
});

test("the output is the pipeline, else the one without a name, else the only one that no other uses", () => {
  const linear = "{merge_method: linear, models: [{model: a}], parameters: {weight: 1}}";
  const pipeline = `name: p\nmodels: {x: folder}\nmerge: ${linear}\n`;
  const published = read(merge("a", "x"), pipeline);
  assert.equal(published.pipeline.name, "p");
  assert.deepEqual(
    published.stages.map(({ name }) => name),
    ["a"],
  );
  const chain = read(merge("b", "a"), merge("a", "x"));
  assert.equal(chain.pipeline.name, "b");
  assert.deepEqual(
    chain.stages.map(({ name }) => name),
    ["a"],
  );
  assert.equal(read(merge("b 2", "x")).pipeline.name, "merge", "a name that a folder cannot have");
});

test("a document that nothing uses is left out with a warning, and is no part of what identifies the recipe", () => {
  const idle = read(merge(undefined, "x"), merge("idle", "y"));
  assert.deepEqual(idle.stages, []);
  assert.deepEqual(idle.warnings, ["idle is used by no other document, and is not merged"]);
  assert.deepEqual(idle.document, read(merge(undefined, "x")).document);
});

const REFUSALS: readonly [string, readonly string[], Expected][] = [
  [
    "a name given twice",
    [merge("a", "x"), merge("a", "y"), merge(undefined, "a")],
    { code: "RecipeNameInvalid", field: "name", line: 6, found: "a" },
  ],
  ["a method's name", [merge("ties", "x"), merge(undefined, "ties")], { code: "RecipeNameInvalid", found: "ties" }],
  [
    "a name that a reference cannot spell",
    [merge("a+b", "x"), merge(undefined, "y")],
    { code: "RecipeNameInvalid", found: "a+b" },
  ],
  ["a name that is very long", [merge("a".repeat(129), "x"), merge(undefined, "y")], { code: "RecipeNameInvalid" }],
  [
    "a name that means another model",
    [merge("a", "x"), "name: p\nmodels: {a: folder}\nmerge: {merge_method: linear, models: [{model: a}]}\n"],
    { code: "RecipeNameInvalid", found: "a" },
  ],
  [
    "a circle",
    [merge("a", "b"), merge("b", "a"), merge(undefined, "a")],
    { code: "RecipeCycle", found: "a uses b uses a" },
  ],
  ["a document that uses itself", [merge("a", "a"), merge(undefined, "a")], { code: "RecipeCycle", found: "a uses a" }],
  [
    "two outputs",
    [merge(undefined, "x"), merge(undefined, "y")],
    { code: "RecipeFieldInvalid", found: "2 documents that could be the output", line: 5 },
  ],
  [
    "two last documents",
    [merge("a", "x"), merge("b", "y")],
    { code: "RecipeFieldInvalid", found: "2 documents that could be the output" },
  ],
  [
    "two pipelines",
    [
      "name: p\nmerge: {merge_method: linear, models: [{model: a}]}\n",
      "name: q\nmerge: {merge_method: linear, models: [{model: a}]}\n",
    ],
    { code: "RecipeFieldInvalid", found: "a second pipeline", line: 4 },
  ],
  [
    "an unknown key in any document",
    [merge("a", "x"), `${merge(undefined, "a")}modles: []\n`],
    { code: "RecipeUnknownKey", found: "modles", line: 9 },
  ],
];

for (const [what, documents, expected] of REFUSALS) {
  test(`refused: ${what}`, () => void assertRefused(() => normalise(...documents), expected));
}

test("what is wrong in an earlier document names its place", () => {
  const wrong = "name: a\nmerge_method: linear\nmodels: [{model: x}]\nslices: [{sources: [{model: x}]}]\n";
  assertRefused(() => normalise(merge(undefined, "a"), wrong), {
    code: "RecipeFieldInvalid",
    field: "slices",
    line: 8,
  });
});
