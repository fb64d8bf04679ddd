import test from "node:test";
import { readOutputs } from "../../../core/recipe/outputs.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { assertRefused } from "../../refusal.ts";

const HEAD = "name: x\nmerge: {merge_method: linear, models: [{model: a}]}\noutputs:\n  - {format: safetensors}\n";

const REFUSALS: readonly (readonly [what: string, output: string, hint: string, found: string])[] = [
  ["a misspelt format", "{format: ggfu, scheme: q8_0}", "did you mean `gguf`?", "ggfu with scheme q8_0"],
  ["a misspelt scheme", "{format: gguf, scheme: q8_o}", "did you mean `q8_0`?", "gguf with scheme q8_o"],
  ["a format without its scheme", "{format: gguf}", "docs/recipes.md says what is supported", "gguf"],
];

for (const [what, output, hint, found] of REFUSALS) {
  test(`refused with its place and the nearest name: ${what}`, (context) => {
    const { pipeline, origin } = readRecipe(new TextEncoder().encode(`${HEAD}  - ${output}\n`), "recipe.yaml");
    const expected = { code: "RecipeNotSupported", found, file: "recipe.yaml", field: "outputs[1]", line: 5 };
    const error = assertRefused(() => readOutputs(pipeline.outputs, origin), expected);
    context.assert.equal(error.hint, hint);
  });
}
