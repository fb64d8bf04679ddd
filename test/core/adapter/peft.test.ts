import assert from "node:assert/strict";
import test from "node:test";
import { readAdapterConfig, readAdapterPart } from "../../../core/adapter/peft.ts";
import { assertRefused } from "../../refusal.ts";

const CONFIG = { peft_type: "LORA", r: 8, lora_alpha: 16, target_modules: ["q_proj"], lora_dropout: 0.1 };
const read = (more: Record<string, unknown> = {}) => readAdapterConfig({ ...CONFIG, ...more }, { model: "a" });

test("the scale is alpha / r, or alpha / sqrt(r) for rank-stabilised adapters", () => {
  assert.deepEqual(read().scaleOf("x.q_proj", 8), { expectedRank: 8, scale: 2 });
  assert.equal(read({ use_rslora: true, r: 4 }).scaleOf("q_proj", 4).scale, 8);
  assert.equal(read({ lora_alpha: 0.5 }).scaleOf("q_proj", 8).scale, 1 / 16);
});

test("patterns give modules a rank and an alpha of their own: names, ends of names, and expressions", () => {
  const config = read({
    rank_pattern: { "layers.0.q_proj": 2, "^model.layers.[12].q_proj": 4, "k_proj|v_proj": 16 },
    alpha_pattern: { q_proj: 6 },
  });
  assert.deepEqual(config.scaleOf("model.layers.0.q_proj", 2), { expectedRank: 2, scale: 3 });
  assert.deepEqual(config.scaleOf("model.layers.2.q_proj", 4), { expectedRank: 4, scale: 1.5 });
  assert.deepEqual(config.scaleOf("model.layers.2.v_proj", 16), { expectedRank: 16, scale: 1 });
  assert.equal(config.scaleOf("model.layers.3.q_proj", 8).expectedRank, 8);
  assert.equal(config.scaleOf("model.layers.3.xq_proj", 8).scale, 2, "a part of a name is no end of it");
});

test("tensors are parts of modules, whole tensors of the model, or refused", () => {
  const part = (name: string) => readAdapterPart(name, {});
  const factor = (module: string, side: "A" | "B", isEmbedding = false) => ({
    kind: "factor",
    module,
    side,
    isEmbedding,
  });
  assert.deepEqual(part("base_model.model.model.layers.0.q_proj.lora_A.weight"), factor("model.layers.0.q_proj", "A"));
  assert.deepEqual(part("base_model.model.q_proj.lora_B.default.weight"), factor("q_proj", "B"));
  assert.deepEqual(part("base_model.model.wte.lora_embedding_A"), factor("wte", "A", true));
  assert.deepEqual(part("base_model.model.q_proj.lora_B.bias"), { kind: "bias", module: "q_proj" });
  for (const name of [
    "lm_head.weight",
    "lm_head.modules_to_save.weight",
    "lm_head.modules_to_save.default.weight",
    "lm_head.base_layer.weight",
  ]) {
    assert.deepEqual(part(`base_model.model.${name}`), { kind: "whole", name: "lm_head.weight" });
  }
  for (const name of [
    "q.lora_magnitude_vector",
    "q.lora_A.bias",
    "e.token_adapter.trainable_tokens_delta",
    "q.lora_C.weight",
  ]) {
    assertRefused(() => part(name), { code: "PlanAdapterNotSupported", tensor: name });
  }
});

test("refused: other kinds of adapter, and configs of another form", () => {
  const kinds: readonly [Record<string, unknown>, string][] = [
    [{ peft_type: "LOHA" }, "peft_type"],
    [{ use_dora: true }, "use_dora"],
    [{ use_qalora: true }, "use_qalora"],
    [{ layer_replication: [[0, 4]] }, "layer_replication"],
    [{ alora_invocation_tokens: [1] }, "alora_invocation_tokens"],
    [{ trainable_token_indices: [3] }, "trainable_token_indices"],
    [{ init_lora_weights: "pissa" }, "init_lora_weights"],
  ];
  for (const [more, field] of kinds)
    assertRefused(() => read(more), { code: "PlanAdapterNotSupported", field, model: "a" });
  for (const init of [true, false, "gaussian", null]) read({ init_lora_weights: init });
  read({ use_dora: false, layer_replication: null, target_parameters: [], rank_pattern: {} });
  const wrong: readonly [Record<string, unknown>, string][] = [
    [{ r: 0 }, "r"],
    [{ lora_alpha: "16" }, "lora_alpha"],
    [{ rank_pattern: { q: -1 } }, "rank_pattern.q"],
    [{ alpha_pattern: { "(": 1 } }, "alpha_pattern"],
  ];
  for (const [more, field] of wrong) assertRefused(() => read(more), { code: "PlanAdapterInvalid", field });
});
