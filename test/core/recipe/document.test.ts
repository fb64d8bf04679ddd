// docs/recipes.md against the code: its examples are planned, and it names every key and every refusal.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { ERROR_CODES } from "../../../core/error.ts";
import { listSources, normaliseRecipe } from "../../../core/recipe/normalise.ts";
import { mergeSchema, moeSchema, pipelineSchema } from "../../../core/recipe/schema.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { makeCheckpoint, makeDense, makeLlama, planDocuments } from "../plan/checkpoints.ts";
import { tokenizerBytes } from "../tokenizer/tokenizers.ts";

const text = readFileSync(new URL("../../../docs/recipes.md", import.meta.url), "utf8");
const examples = [...text.matchAll(/^```yaml\n(.*?)^```$/gms)].map((match) => match[1] ?? "");

/** Tensors of a model of several modules. */
const VISUAL = { "vision_tower.w": [2], "multi_modal_projector.w": [2], "language_model.w": [2] };

test("the examples are recipes that are planned without a warning", () => {
  assert.equal(examples.length, 7);
  const tokens = Object.fromEntries(["a", "b", "<|im_start|>", "1", "d"].map((token, id) => [token, id]));
  const tokenizer = { "tokenizer.json": tokenizerBytes({ vocab: tokens }) };
  for (const example of examples) {
    const recipe = normaliseRecipe(readRecipe(new TextEncoder().encode(example), "example.yaml"));
    const names = [...listSources(recipe)];
    const whole = recipe.moe === undefined ? makeLlama() : makeDense();
    const made = recipe.modules.some(({ name }) => name !== undefined) ? makeCheckpoint(VISUAL) : whole;
    const models = Object.fromEntries(names.map((model) => [model, made]));
    const documents = Object.fromEntries(names.map((model) => [model, tokenizer]));
    assert.deepEqual(planDocuments(example, models, documents).warnings, []);
  }
});

test("every key is named", () => {
  const keys = [mergeSchema, moeSchema, pipelineSchema].flatMap(({ shape }) => Object.keys(shape));
  assert.deepEqual(
    keys.filter((key) => !new RegExp(`\`${key}\`|^ *${key}:`, "m").test(text)),
    [],
  );
});

test("every code that it names exists", () => {
  const named = [...text.matchAll(/`((?:Recipe|Plan)[A-Z]\w+)`/g)].map((match) => match[1] ?? "");
  assert.ok(named.length >= 18);
  assert.deepEqual(
    named.filter((code) => !Object.hasOwn(ERROR_CODES, code)),
    [],
  );
});
