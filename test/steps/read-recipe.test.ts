// Recipe files as users write them: YAML in, a checked recipe or one refusal with file, field and line out.
import assert from "node:assert/strict";
import test from "node:test";
import { readRecipe } from "../../steps/read-recipe.ts";
import { assertRefused, type Expected } from "../refusal.ts";

const read = (text: string) => readRecipe(new TextEncoder().encode(text), "recipe.yaml");
/** The merge part of a recipe that is none of mergekit-moe. */
const mergeOf = ({ merge }: ReturnType<typeof read>) => {
  assert.ok("merge_method" in merge);
  return merge;
};
const LINEAR = "merge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: 1}\n";

test("a mergekit configuration on its own is a recipe, and its text is kept", () => {
  const recipe = read(LINEAR);
  assert.equal(mergeOf(recipe).merge_method, "linear");
  assert.equal(recipe.text, LINEAR);
  assert.equal(recipe.pipeline.name, "merge");
  assert.equal(recipe.pipeline.publish, undefined);
  assert.deepEqual(recipe.warnings, []);
});

test("a pipeline file has its merge part and everything around it", () => {
  const text = [
    "name: support-bot",
    "on: {upload: [support-*], schedule: cron(0 2 * * ? *)}",
    "models: {base: artifacts/llama@stable}",
    "merge:",
    ...LINEAR.trimEnd()
      .split("\n")
      .map((line) => `  ${line}`),
    "outputs: [{format: safetensors}]",
    "checks: {max_nonfinite: 3}",
    "publish: {model: support-bot, channel: nightly, keep: 14}",
  ].join("\n");
  const recipe = read(text);
  const { pipeline, document } = recipe;
  assert.equal(mergeOf(recipe).merge_method, "linear");
  assert.deepEqual(pipeline, {
    name: "support-bot",
    on: { upload: ["support-*"], schedule: "cron(0 2 * * ? *)" },
    models: { base: "artifacts/llama@stable" },
    outputs: [{ format: "safetensors" }],
    checks: { max_nonfinite: 3 },
    statistics: false,
    publish: { model: "support-bot", channel: "nightly", keep: 14 },
  });
  assert.ok(typeof document === "object" && document !== null && "publish" in document);
});

test("model references are taken as text and as maps, with revision and adapter", () => {
  const cases: readonly (readonly [string, string])[] = [
    ["a", "a"],
    ["a@main", "a@main"],
    ["s3://bucket/path", "s3://bucket/path"],
    ["a@1+b@2", "a@1+b@2"],
    ["{model: a}", "a"],
    ["{model: {path: a, revision: main}}", "a@main"],
    ["{model: a, lora: {path: b, revision: 2x}}", "a+b@2x"],
  ];
  for (const [written, spelling] of cases) {
    const recipe = read(`merge_method: linear\nmodels:\n  - model: ${written}\n`);
    assert.equal(mergeOf(recipe).models?.[0]?.model.model, spelling, written);
  }
});

test("aliases and merge keys are resolved", () => {
  const recipe = read(
    "defs: &p {weight: 0.5}\nmerge_method: linear\nmergekit_compat: strict\n" +
      "models:\n  - {model: a, parameters: *p}\n  - model: b\n    parameters: {<<: *p, density: 1}\n",
  );
  const weight = { kind: "scalar", value: 0.5 };
  assert.deepEqual(mergeOf(recipe).models?.[0]?.parameters, { weight });
  assert.deepEqual(mergeOf(recipe).models?.[1]?.parameters, { weight, density: { kind: "scalar", value: 1 } });
});

test("a key that mergekit knows from another place is ignored with a warning that says so", () => {
  const recipe = read(`normalize: true\n${LINEAR}`);
  const { warnings } = recipe;
  assert.equal(mergeOf(recipe).merge_method, "linear");
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /^normalize \(line 1\)/);
});

test("under mergekit_compat: strict unknown keys of the merge part are warnings, of our own parts never", () => {
  const { warnings } = read(`mergekit_compat: strict\nlicence: mit\nfoo: {bar: 1}\n${LINEAR}`);
  assert.equal(warnings.length, 2);
  assertRefused(() => read("name: x\nmerge: {merge_method: linear, mergekit_compat: strict}\npublsh: {}\n"), {
    code: "RecipeUnknownKey",
    field: "publsh",
    expected: "publish",
  });
});

const inPipeline = (line: string) => `name: x\nmerge: {merge_method: linear, models: [{model: a}]}\n${line}\n`;

const REFUSALS: readonly (readonly [string, string, Expected])[] = [
  [
    "a misspelt top-level key",
    "merge_methd: linear\n",
    { code: "RecipeUnknownKey", field: "merge_methd", line: 1, expected: "merge_method" },
  ],
  [
    "a misspelt merge part",
    "name: x\nmerg: {merge_method: linear}\n",
    { code: "RecipeUnknownKey", field: "merg", line: 2, expected: "merge" },
  ],
  [
    "a misspelt key of a model",
    "merge_method: linear\nmodels:\n  - model: a\n    paramters: {}\n",
    { code: "RecipeUnknownKey", field: "models[0].paramters", line: 4, expected: "parameters", file: "recipe.yaml" },
  ],
  [
    "a misspelt key in a filtered value",
    `${LINEAR}parameters:\n  weight:\n    - {filtr: x, value: 1}\n`,
    { code: "RecipeUnknownKey", field: "parameters.weight[0].filtr", line: 7, expected: "filter" },
  ],
  [
    "a misspelt key inside a model map",
    "merge_method: linear\nmodels:\n  - model: {model: {path: a, revison: b}}\n",
    { code: "RecipeUnknownKey", field: "models[0].model.model.revison", line: 3, expected: "revision" },
  ],
  [
    "a misspelt key of the pipeline",
    inPipeline("publsh: {model: m}"),
    { code: "RecipeUnknownKey", field: "publsh", line: 3, expected: "publish" },
  ],
  [
    "a misspelt key under publish",
    inPipeline("publish: {model: m, chanel: c}"),
    { code: "RecipeUnknownKey", field: "publish.chanel", line: 3 },
  ],
  [
    "a channel that no file can be named by",
    inPipeline("publish: {model: m, channel: night ly}"),
    {
      code: "RecipeFieldInvalid",
      field: "publish.channel",
      found: '"night ly"',
      expected: "1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit",
    },
  ],
  [
    "a misspelt key of the merge part of a pipeline",
    "name: x\nmerge:\n  merge_method: linear\n  modles: []\n",
    { code: "RecipeUnknownKey", field: "merge.modles", line: 4, expected: "models" },
  ],
  [
    "no method",
    "models: [{model: a}]\n",
    { code: "RecipeFieldInvalid", field: "merge_method", found: "nothing", expected: "text" },
  ],
  [
    "a method that is no text",
    "merge_method: 3\n",
    { code: "RecipeFieldInvalid", field: "merge_method", line: 1, found: "3", expected: "text" },
  ],
  [
    "a setting that is no number",
    `${LINEAR}parameters:\n  normalize: maybe so\n`,
    { code: "RecipeFieldInvalid", field: "parameters.normalize", line: 6, found: '"maybe so"' },
  ],
  [
    "a gradient with a word in it",
    `${LINEAR}parameters: {t: [0, high]}\n`,
    { code: "RecipeFieldInvalid", field: "parameters.t[1]", line: 5, found: '"high"', expected: "a number" },
  ],
  [
    "a setting of nothing",
    `${LINEAR}parameters: {t: null}\n`,
    { code: "RecipeFieldInvalid", field: "parameters.t", line: 5, found: "null" },
  ],
  [
    "an empty gradient",
    `${LINEAR}parameters: {t: []}\n`,
    { code: "RecipeFieldInvalid", field: "parameters.t", line: 5, found: "a list of 0" },
  ],
  [
    "a filtered value outside a list",
    `${LINEAR}parameters: {t: {filter: x, value: 1}}\n`,
    { code: "RecipeFieldInvalid", field: "parameters.t", line: 5, found: '{"filter":"x","value":1}' },
  ],
  [
    "filtered values within filtered values",
    `${LINEAR}parameters: {t: [{filter: x, value: [{value: 1}]}]}\n`,
    { code: "RecipeFieldInvalid", field: "parameters.t[0].value[0]", line: 5, found: '{"value":1}' },
  ],
  [
    "a setting that is not a number",
    `${LINEAR}parameters: {t: .nan}\n`,
    { code: "RecipeFieldInvalid", field: "parameters.t", line: 5, found: "NaN" },
  ],
  [
    "two revisions",
    "merge_method: linear\nmodels:\n  - model: a@b@c\n",
    { code: "RecipeFieldInvalid", field: "models[0].model", line: 3, found: "a@b@c" },
  ],
  [
    "two adapters",
    "merge_method: linear\nmodels:\n  - model: a+b+c\n",
    { code: "RecipeFieldInvalid", field: "models[0].model", line: 3 },
  ],
  [
    "a model that is a list",
    "merge_method: linear\nmodels:\n  - model: [a]\n",
    { code: "RecipeFieldInvalid", field: "models[0].model", line: 3 },
  ],
  [
    "an unknown dtype",
    `${LINEAR}dtype: float8\n`,
    { code: "RecipeFieldInvalid", field: "dtype", line: 5, found: '"float8"' },
  ],
  [
    "a layer range of one number",
    "merge_method: linear\nslices:\n  - sources:\n      - {model: a, layer_range: [0]}\n",
    { code: "RecipeFieldInvalid", field: "slices[0].sources[0].layer_range", line: 4 },
  ],
  [
    "an unknown policy",
    `${LINEAR}allow_unlisted: merge\n`,
    { code: "RecipeFieldInvalid", field: "allow_unlisted", line: 5, expected: "copy, drop" },
  ],
  [
    "a name that is no name",
    "name: ../x\nmerge: {merge_method: linear}\n",
    { code: "RecipeFieldInvalid", field: "name", line: 1 },
  ],
  ["a scalar document", "just text\n", { code: "RecipeFieldInvalid" }],
  ["an empty file", "# nothing\n", { code: "RecipeFieldInvalid", file: "recipe.yaml" }],
  [
    "a key given twice",
    "merge_method: linear\nmerge_method: ties\n",
    { code: "RecipeDuplicateKey", line: 2, file: "recipe.yaml" },
  ],
  ["broken YAML", "merge_method: [linear\nmodels: 3\n", { code: "RecipeSyntax", line: 2, file: "recipe.yaml" }],
  ["an unknown tag", "merge_method: !!python/object:os.system linear\n", { code: "RecipeSyntax", line: 1 }],
  ["a key that is a list", "? [a]\n: 1\n", { code: "RecipeSyntax", line: 1 }],
  ["an alias bomb", bomb(), { code: "RecipeTooLarge", file: "recipe.yaml" }],
  ["deep nesting", `a: ${"{a: ".repeat(40)}1${"}".repeat(40)}`, { code: "RecipeTooLarge", line: 1 }],
  ["brackets without end", "[".repeat(200_000), { code: "RecipeTooLarge", file: "recipe.yaml" }],
  ["a file that is too large", `# ${"x".repeat(1_048_576)}\n`, { code: "RecipeTooLarge", file: "recipe.yaml" }],
];

function bomb(): string {
  const levels = Array.from(
    { length: 9 },
    (_, level) => `l${level + 1}: &l${level + 1} [${Array(9).fill(`*l${level}`).join(", ")}]`,
  );
  return `l0: &l0 [x, x, x, x, x, x, x, x, x]\n${levels.join("\n")}\n`;
}

for (const [what, text, expected] of REFUSALS) {
  test(`refused: ${what}`, () => void assertRefused(() => read(text), expected));
}

test("bytes that are not UTF-8 are refused", () => {
  assertRefused(() => readRecipe(new Uint8Array([0x61, 0xff]), "recipe.yaml"), {
    code: "RecipeSyntax",
    file: "recipe.yaml",
  });
});
