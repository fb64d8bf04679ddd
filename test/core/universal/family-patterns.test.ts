// What a family's table makes of parameters: refusals, and what shapes settle. Whole models: test/steps.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { Shape } from "../../../core/tensor.ts";
import { FAMILY_IDS, type FamilyId } from "../../../core/universal/family-ids.ts";
import { familyPatterns, findFamily } from "../../../core/universal/family-patterns.ts";
import { MODEL_FAMILIES } from "../../../core/universal/model-families.ts";
import { compilePattern } from "../../../core/universal/name-pattern.ts";

const FACTS = { vocabularySize: undefined, checkpointVersion: undefined };

/** Two ranks that hold parameters of these shapes each. */
function patternsOf(id: FamilyId, shapes: Readonly<Record<string, Shape>>, facts: Partial<typeof FACTS> | object = {}) {
  const family = MODEL_FAMILIES.get(id) ?? assert.fail(id);
  const parameters = Object.entries(shapes).map(([name, shape]) => ({ name, shapes: [shape, shape] }));
  return familyPatterns(family, parameters, { ...FACTS, ...facts });
}

const EMBEDDING = "model.embed_tokens.weight";
const NORM = { "model.layers.0.input_layernorm.weight": [8] };
const GATE = "0.mlp.dense_h_to_4h.weight";
const DOWN = "0.mlp.dense_4h_to_h.weight";

suite("tables of families", () => {
  test("are there for every id, with patterns of the subset", () => {
    assert.deepEqual([...MODEL_FAMILIES.keys()], [...FAMILY_IDS]);
    for (const { rows, pipelineReplicated } of MODEL_FAMILIES.values()) {
      const texts = [...rows.flatMap(({ patterns }) => patterns), ...pipelineReplicated];
      assert.equal(new Set(texts).size, texts.length);
      for (const text of texts) compilePattern(text);
    }
  });

  test("name every parameter or refuse it", () => {
    assert.throws(() => patternsOf("llama", { "model.layers.0.mlp.router.weight": [2, 8] }), {
      code: "UniversalPatternsMissing",
      where: { tensor: "model.layers.0.mlp.router.weight" },
    });
  });

  test("leave embeddings whole, or cut them on the axis that their shapes show, or ask", () => {
    const listsOf = (shape: Shape, vocabularySize?: number) => {
      const { info } = patternsOf("llama", { ...NORM, [EMBEDDING]: shape }, { vocabularySize });
      return Object.entries(info).flatMap(([list, texts]) =>
        Array.isArray(texts) && texts.some((text) => String(text).includes("embed_tokens")) ? [list] : [],
      );
    };
    assert.deepEqual(listsOf([30, 8], 30), ["tp_replicated_parameter_patterns"]);
    assert.deepEqual(listsOf([15, 8], 30), [
      "parameter_with_column_parallelism_patterns",
      "vocabulary_parameter_patterns",
    ]);
    assert.deepEqual(listsOf([30, 4]), ["parameter_with_row_parallelism_patterns"]);
    assert.throws(() => listsOf([30, 8]), { code: "UniversalPatternsMissing", where: { tensor: EMBEDDING } });
    assert.throws(() => listsOf([10, 8], 30), { code: "UniversalShapeMismatch", where: { tensor: EMBEDDING } });
  });

  test("refuse shapes and versions that the family does not have", () => {
    const mismatch = (tensor: string) => ({ code: "UniversalShapeMismatch", where: { tensor } });
    assert.throws(() => patternsOf("megatron-gpt", { [GATE]: [18, 8], [DOWN]: [8, 6] }), mismatch(GATE));
    assert.throws(() => patternsOf("megatron-gpt", { [GATE]: [12, 8] }), mismatch(GATE));
    const mixed = { [GATE]: [12, 8], [DOWN]: [8, 6], "1.mlp.dense_h_to_4h.weight": [6, 8] };
    assert.throws(
      () => patternsOf("megatron-gpt", { ...mixed, "1.mlp.dense_4h_to_h.weight": [8, 6] }),
      mismatch("1.mlp.dense_h_to_4h.weight"),
    );
    const fused = "0.attention.query_key_value.weight";
    assert.throws(() => patternsOf("gpt-neox", { [fused]: [3, 8] }), mismatch(fused));
    assert.throws(() => patternsOf("megatron-gpt", { [DOWN]: [8, 6] }, { checkpointVersion: 0 }), {
      code: "DeepspeedUnsupported",
      where: { field: "checkpoint_version" },
    });
  });

  test("are found by config.json or by all of the trainer's arguments", () => {
    const idOf = (config: Record<string, unknown> | undefined, ...trainerArguments: readonly string[]) =>
      findFamily({ config, trainerArguments })?.family.id;
    assert.equal(idOf({ model_type: "mistral" }), "llama");
    assert.equal(idOf({ model_type: "mixtral" }), "mixtral");
    assert.equal(idOf(undefined, "padded_vocab_size", "model_parallel_size"), "gpt-neox");
    assert.equal(idOf({}, "padded_vocab_size", "tensor_model_parallel_size"), "megatron-gpt");
    assert.equal(idOf({ model_type: "bert" }, "padded_vocab_size"), undefined);
    assert.equal(idOf(undefined), undefined);
  });
});
