// Recipes that mergekit ran: they must be planned to the same tensors and the same config.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import * as z from "zod";
import type { Checkpoint } from "../../../core/checkpoint.ts";
import { isFloatDtype } from "../../../core/ops/cast.ts";
import { configOf, makeCheckpoint, planText, tensorOf, tensorsOf } from "./checkpoints.ts";

const FOLDER = new URL("../../golden/recipes/", import.meta.url);
const { dims, recipes } = z
  .object({
    dims: z.object({ vocab: z.int(), hidden: z.int(), inter: z.int(), kv: z.int(), layers: z.int() }),
    recipes: z.array(
      z.object({
        id: z.string(),
        recipe: z.string(),
        tensors: z.array(z.string()),
        expected_config: z.record(z.string(), z.union([z.string(), z.number()])),
      }),
    ),
  })
  .parse(JSON.parse(readFileSync(new URL("recipes.json", FOLDER), "utf8")));

const textOf = (recipe: string) => readFileSync(new URL(recipe, FOLDER), "utf8");

/** The models' headers, by the names that the recipes use: `models/<name>-<dtype>`. */
const models: Record<string, Checkpoint> = Object.fromEntries(
  ["base", "ft1", "ft2", "ft3", "far"].flatMap((name) =>
    (["f32", "bf16"] as const).map((dtype) => [`models/${name}-${dtype}`, makeModel(dtype === "f32" ? "F32" : "BF16")]),
  ),
);

function makeModel(dtype: "F32" | "BF16"): Checkpoint {
  const { vocab, hidden, inter, kv, layers } = dims;
  const shapes: Record<string, readonly number[]> = { "model.embed_tokens.weight": [vocab, hidden] };
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}.`;
    for (const norm of ["input_layernorm", "post_attention_layernorm"]) shapes[`${at}${norm}.weight`] = [hidden];
    for (const name of ["gate_proj", "up_proj"]) shapes[`${at}mlp.${name}.weight`] = [inter, hidden];
    shapes[`${at}mlp.down_proj.weight`] = [hidden, inter];
    for (const name of ["q_proj", "o_proj"]) shapes[`${at}self_attn.${name}.weight`] = [hidden, hidden];
    for (const name of ["k_proj", "v_proj"]) shapes[`${at}self_attn.${name}.weight`] = [kv, hidden];
  }
  shapes["model.norm.weight"] = [hidden];
  shapes["lm_head.weight"] = [vocab, hidden];
  const config = { model_type: "llama", hidden_size: hidden, num_hidden_layers: layers, vocab_size: vocab };
  return makeCheckpoint(shapes, {
    dtype,
    config: { ...config, torch_dtype: dtype === "F32" ? "float32" : "bfloat16" },
  });
}

const plan = (recipe: string) => planText(textOf(recipe), models);

for (const { id, recipe, tensors, expected_config: expected } of recipes) {
  test(`${id} is planned to the reference's tensors and config`, () => {
    const planned = plan(recipe);
    assert.deepEqual([...tensorsOf(planned).keys()].sort(), [...tensors].sort());
    const config = configOf(planned);
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, config[key]])), expected);
    for (const tensor of tensorsOf(planned).values()) assert.ok(isFloatDtype(tensor.dtype));
    assert.deepEqual(planned.warnings, []);
  });
}

test("the golden recipes are all there", () => assert.equal(recipes.length, 5));

test("recipe-linear-precedence: every level decides where the reference says so", () => {
  const planned = plan("recipe-linear-precedence.yaml");
  const weights = (name: string) => tensorOf(planned, name).inputs.map(({ parameters }) => parameters.weight);
  assert.deepEqual(weights("model.layers.0.mlp.up_proj.weight"), [0.9, 0.25]);
  assert.deepEqual(weights("model.layers.1.input_layernorm.weight"), [2, 2]);
  assert.deepEqual(weights("model.layers.1.self_attn.q_proj.weight"), [0.4, 0.4]);
  assert.deepEqual(weights("model.layers.2.mlp.up_proj.weight"), [0.8, 0.6]);
  assert.deepEqual(weights("model.embed_tokens.weight"), [0.9, 0.25]);
  assert.deepEqual(weights("lm_head.weight"), [0.4, 0.4]);
});

test("recipe-ties-gradients: gradients, filters and a numeric string as the reference reads them", () => {
  const planned = plan("recipe-ties-gradients.yaml");
  const inputs = (name: string) =>
    tensorOf(planned, name).inputs.map(({ parameters }) => [parameters.weight, parameters.density]);
  assert.deepEqual(inputs("model.layers.1.self_attn.o_proj.weight"), [
    [1, 0.7],
    [0.5, 0.5],
    [0.5, 0.33],
    [undefined, 1],
  ]);
  assert.deepEqual(inputs("model.layers.2.mlp.up_proj.weight").slice(0, 3), [
    [1, 0.3],
    [1, 0.5],
    [0.5, 0.33],
  ]);
  assert.equal(tensorOf(planned, "lm_head.weight").dtype, "BF16");
});
