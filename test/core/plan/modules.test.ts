// Models of several modules: which tensors a module is, how each is merged, and what is beside them.
import assert from "node:assert/strict";
import test from "node:test";
import type { Checkpoint } from "../../../core/checkpoint.ts";
import { assertRefused } from "../../refusal.ts";
import { configOf, makeCheckpoint, planText, tensorOf, tensorsOf } from "./checkpoints.ts";

/** A vision-language model as they are laid out: a tower, a projector, a language model, a head beside them. */
function makeVisual({ prefix = "", vision = 2, text = 3 } = {}): Checkpoint {
  const shapes: Record<string, readonly number[]> = {
    [`${prefix}vision_tower.embeddings.weight`]: [5, 4],
    [`${prefix}multi_modal_projector.linear.weight`]: [4, 4],
    [`${prefix}language_model.embed_tokens.weight`]: [10, 4],
    [`${prefix}language_model.norm.weight`]: [4],
    "lm_head.weight": [10, 4],
  };
  for (let layer = 0; layer < vision; layer++) shapes[`${prefix}vision_tower.layers.${layer}.fc.weight`] = [4, 4];
  for (let layer = 0; layer < text; layer++) shapes[`${prefix}language_model.layers.${layer}.mlp.weight`] = [4, 4];
  const config = {
    model_type: "visual",
    text_config: {
      num_hidden_layers: text,
      vocab_size: 10,
      layer_types: Array.from({ length: text }, (_, i) => `t${i}`),
    },
    vision_config: { num_hidden_layers: vision },
  };
  return makeCheckpoint(shapes, { config });
}

const MODELS = { a: makeVisual(), b: makeVisual() };
const both = "{models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]}";
const one = "{models: [{model: b, parameters: {weight: 1}}]}";
const recipe = (modules: string, more = "") => `merge_method: linear\nmodules:\n${modules}${more}`;
const inputsOf = (plan: ReturnType<typeof planText>, name: string) =>
  tensorOf(plan, name).inputs.map(({ source, parameters }) => [source, parameters.weight]);

test("each module is merged as it says, and the head goes with the language model", () => {
  const text = recipe(`  vision_tower: ${one}\n  multi_modal_projector: ${both}\n  language_model: ${both}\n`);
  for (const prefix of ["", "model."]) {
    const models = { a: makeVisual({ prefix }), b: makeVisual({ prefix }) };
    const plan = planText(text, models);
    assert.equal(tensorsOf(plan).size, models.a.tensors.length);
    assert.deepEqual(inputsOf(plan, `${prefix}vision_tower.layers.1.fc.weight`), [[0, 1]]);
    assert.deepEqual(
      inputsOf(plan, `${prefix}multi_modal_projector.linear.weight`).map(([, weight]) => weight),
      [1, 3],
    );
    assert.deepEqual(
      inputsOf(plan, "lm_head.weight").map(([, weight]) => weight),
      [1, 3],
    );
  }
});

test("mergekit's own names of modules mean the same parts, and `default` the whole model", () => {
  const text = recipe(`  vision_tower: ${one}\n  multi_modal_projector: ${one}\n  text_decoder: ${both}\n`);
  assert.deepEqual(
    inputsOf(planText(text, MODELS), "language_model.norm.weight").map(([, weight]) => weight),
    [1, 3],
  );
  const whole = planText(recipe(`  default: ${both}\n`), MODELS);
  assert.deepEqual(
    inputsOf(whole, "vision_tower.embeddings.weight").map(([, weight]) => weight),
    [1, 3],
  );
});

test("a language model may be all that lies under `model.`, and parts of a merger may have a list of their own", () => {
  const layout = (tower: string, text: string) =>
    makeCheckpoint({
      [`${tower}.merger.mlp.weight`]: [4, 4],
      [`${tower}.patch_embed.weight`]: [4, 4],
      [`${tower}.blocks.0.fc.weight`]: [4, 4],
      [`${tower}.deepstack_merger_list.0.fc.weight`]: [4, 4],
      [`${text}.embed_tokens.weight`]: [10, 4],
      [`${text}.layers.0.mlp.weight`]: [4, 4],
      "lm_head.weight": [10, 4],
    });
  const weigh = (weight: number) => `{models: [{model: a, parameters: {weight: ${weight}}}]}`;
  const modules = `  vision_tower: ${weigh(1)}\n  multi_modal_projector: ${weigh(2)}\n  text_decoder: ${weigh(3)}\n`;
  for (const [tower, text] of [
    ["visual", "model"],
    ["model.visual", "model.language_model"],
  ] as const) {
    const plan = planText(recipe(modules), { a: layout(tower, text) });
    const weights = [...tensorsOf(plan)].map(([name, { inputs }]) => [name, inputs[0]?.parameters.weight]);
    assert.deepEqual(Object.fromEntries(weights), {
      [`${tower}.merger.mlp.weight`]: 2,
      [`${tower}.patch_embed.weight`]: 1,
      [`${tower}.blocks.0.fc.weight`]: 1,
      [`${tower}.deepstack_merger_list.0.fc.weight`]: 2,
      [`${text}.embed_tokens.weight`]: 3,
      [`${text}.layers.0.mlp.weight`]: 3,
      "lm_head.weight": 3,
    });
  }
});

test("models of an encoder and a decoder count the layers of each under a key of its own", () => {
  const stacked = (half: string, config: Record<string, number>) => {
    const names = ["encoder", "decoder"].flatMap((own) => [0, 1].map((layer) => `model.${own}.layers.${layer}.w`));
    const model = makeCheckpoint(Object.fromEntries(names.map((name) => [name, [2]])), { config });
    const other = half === "encoder" ? "decoder" : "encoder";
    const slices = "{slices: [{sources: [{model: a, layer_range: [1, 2]}]}], parameters: {weight: 1}}";
    const whole = "{models: [{model: a, parameters: {weight: 1}}]}";
    const { torch_dtype: _, ...rest } = configOf(
      planText(recipe(`  ${half}: ${slices}\n  ${other}: ${whole}\n`), { a: model }),
    );
    return rest;
  };
  const whisper = { num_hidden_layers: 2, encoder_layers: 2, decoder_layers: 2 };
  assert.deepEqual(stacked("decoder", whisper), { ...whisper, decoder_layers: 1 });
  assert.deepEqual(stacked("encoder", whisper), { ...whisper, encoder_layers: 1, num_hidden_layers: 1 });
  const t5 = { num_layers: 2, num_decoder_layers: 2 };
  assert.deepEqual(stacked("decoder", t5), { ...t5, num_decoder_layers: 1 });
  assert.deepEqual(stacked("encoder", t5), { ...t5, num_layers: 1 });
});

test("a module's slices renumber its own layers, and the config's section for it follows", () => {
  const sources = "{sources: [{model: a, layer_range: [0, 3]}]}, {sources: [{model: b, layer_range: [1, 3]}]}";
  const slices = `{slices: [${sources}], parameters: {weight: 1}}`;
  const plan = planText(
    recipe(`  vision_tower: ${both}\n  multi_modal_projector: ${one}\n  language_model: ${slices}\n`),
    MODELS,
  );
  assert.equal(
    tensorOf(plan, "language_model.layers.4.mlp.weight").inputs[0]?.tensor,
    "language_model.layers.2.mlp.weight",
  );
  assert.equal(tensorsOf(plan).has("language_model.layers.5.mlp.weight"), false);
  assert.equal(tensorOf(plan, "vision_tower.layers.1.fc.weight").inputs.length, 2);
  assert.deepEqual(configOf(plan), {
    model_type: "visual",
    text_config: { num_hidden_layers: 5, vocab_size: 10, layer_types: ["t0", "t1", "t2", "t1", "t2"] },
    vision_config: { num_hidden_layers: 2 },
    torch_dtype: "float32",
  });
});

test("of two modules of one depth, the config section that shares a word is meant", () => {
  const models = { a: makeVisual({ vision: 3 }), b: makeVisual({ vision: 3 }) };
  const slices = "{slices: [{sources: [{model: a, layer_range: [0, 2]}]}], parameters: {weight: 1}}";
  const plan = planText(
    recipe(`  vision_tower: ${slices}\n  multi_modal_projector: ${one}\n  language_model: ${both}\n`),
    models,
  );
  const { text_config: text, vision_config: vision } = configOf(plan);
  assert.deepEqual(
    [Reflect.get(Object(text), "num_hidden_layers"), Reflect.get(Object(vision), "num_hidden_layers")],
    [3, 2],
  );
});

test("gradients run over a module's own layers", () => {
  const gradient = "{models: [{model: a, parameters: {weight: [0, 1]}}, {model: b, parameters: {weight: 1}}]}";
  const plan = planText(
    recipe(`  vision_tower: ${gradient}\n  multi_modal_projector: ${one}\n  language_model: ${gradient}\n`),
    MODELS,
  );
  assert.deepEqual(inputsOf(plan, "vision_tower.layers.1.fc.weight")[0]?.[1], 1);
  assert.deepEqual(inputsOf(plan, "language_model.layers.1.mlp.weight")[0]?.[1], 0.5);
});

test("tensors of no module are copied or dropped when the recipe says so", () => {
  const modules = `  vision_tower: ${both}\n  language_model: ${both}\n`;
  const copied = planText(recipe(modules, "allow_unlisted: copy\nbase_model: b\n"), MODELS);
  const projector = tensorOf(copied, "multi_modal_projector.linear.weight");
  assert.deepEqual([projector.method, projector.inputs.length, projector.inputs[0]?.source], ["copy", 1, 1]);
  assert.ok(copied.warnings.some((warning) => /no module are copied: multi_modal_projector/.test(warning)));
  const dropped = planText(recipe(modules, "allow_unlisted: drop\n"), MODELS);
  assert.equal(tensorsOf(dropped).has("multi_modal_projector.linear.weight"), false);
  assertRefused(() => planText(recipe(modules), MODELS), {
    code: "PlanModulesIncomplete",
    field: "modules",
    tensor: "multi_modal_projector.linear.weight",
  });
});

test("refused: a module that no tensor shows, and one that several prefixes end in", () => {
  assertRefused(() => planText(recipe(`  audio_tower: ${one}\n`), MODELS), {
    code: "PlanModuleUnknown",
    field: "modules.audio_tower",
    model: "b",
  });
  const twice = makeCheckpoint({ "x.tower.weight": [2], "y.tower.weight": [2] });
  assertRefused(() => planText(recipe("  tower: {models: [{model: b}]}\n"), { b: twice }), {
    code: "PlanModuleUnknown",
    found: "x.tower. and y.tower.",
  });
});
