import test from "node:test";
import { readOutputs } from "../../../core/recipe/outputs.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { assertRefused, type Expected } from "./refusal.ts";

const HEAD = "name: x\nmerge: {merge_method: linear, models: [{model: a}]}\noutputs:\n  - {format: safetensors}\n";

const REFUSALS: readonly (readonly [string, string, string, Expected])[] = [
  ["a misspelt format", "{format: ggfu, scheme: q8_0}", "did you mean `gguf`?", { code: "RecipeNotSupported" }],
  ["a misspelt scheme", "{format: gguf, scheme: q8_o}", "did you mean `q8_0`?", { code: "RecipeNotSupported" }],
];

for (const [what, output, hint, expected] of REFUSALS) {
  test(`refused with its place and the nearest name: ${what}`, (context) => {
    const { pipeline, origin } = readRecipe(new TextEncoder().encode(`${HEAD}  - ${output}\n`), "recipe.yaml");
    const place = { file: "recipe.yaml", field: "outputs[1]", line: 5 };
    const error = assertRefused(() => readOutputs(pipeline.outputs, origin), { ...expected, ...place });
    context.assert.equal(error.hint, hint);
  });
}
