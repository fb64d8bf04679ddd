import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import {
  compareNames,
  describeArchitecture,
  findTied,
  parseLayerName,
  tensorRole,
  tensorSide,
} from "../../../core/plan/architecture.ts";
import { makeCheckpoint, makeLlama } from "./checkpoints.ts";

test("the first number in a name is its layer", () => {
  const cases: readonly (readonly [string, string, number, string])[] = [
    ["model.layers.3.mlp.up_proj.weight", "model.layers.", 3, ".mlp.up_proj.weight"],
    [
      "model.layers.12.block_sparse_moe.experts.7.w1.weight",
      "model.layers.",
      12,
      ".block_sparse_moe.experts.7.w1.weight",
    ],
    ["encoder.layer.0.attention.output.dense.bias", "encoder.layer.", 0, ".attention.output.dense.bias"],
    ["transformer.h.10.ln_1.weight", "transformer.h.", 10, ".ln_1.weight"],
    ["0.weight", "", 0, ".weight"],
  ];
  for (const [name, prefix, layer, suffix] of cases)
    assert.deepEqual(parseLayerName(name), { prefix, layer, suffix }, name);
});

test("names without such a number have no layer", () => {
  for (const name of [
    "lm_head.weight",
    "model.norm.weight",
    "layer1.weight",
    "proj_2.weight",
    "x.007.weight",
    "x.9999999.w",
    "blocks.3",
  ]) {
    assert.equal(parseLayerName(name), undefined, name);
  }
});

test("any name is split into parts that make it again", () => {
  const part = fc.constantFrom("a", "0", "12", "layers", "w1", "007");
  fc.assert(
    fc.property(fc.array(part, { minLength: 1, maxLength: 6 }), (parts) => {
      const name = parts.join(".");
      const place = parseLayerName(name);
      if (place !== undefined) assert.equal(`${place.prefix}${place.layer}${place.suffix}`, name);
    }),
  );
});

test("stacks of layers are counted, and the main one is the only one or the one that the config counts", () => {
  const two = { "vision.blocks.0.w": [2], "vision.blocks.3.w": [2], "text.layers.0.w": [2], "text.layers.1.w": [2] };
  const cases: readonly (readonly [
    Record<string, number[]>,
    Record<string, unknown> | undefined,
    string | undefined,
  ])[] = [
    [{ "h.0.w": [2], "h.1.w": [2] }, undefined, "h."],
    [two, undefined, undefined],
    [two, { num_hidden_layers: 2 }, "text.layers."],
    [two, { text_config: { num_hidden_layers: 2 } }, "text.layers."],
    [two, { n_layer: 4 }, "vision.blocks."],
    [two, { num_hidden_layers: 3 }, undefined],
    [{ "encoder.block.0.w": [2], "decoder.block.0.w": [2] }, { num_layers: 1 }, undefined],
    [{ w: [2] }, undefined, undefined],
  ];
  for (const [shapes, config, main] of cases) {
    const architecture = describeArchitecture(makeCheckpoint(shapes, config === undefined ? {} : { config }));
    assert.equal(architecture.mainStack, main, JSON.stringify([shapes, config]));
  }
  assert.deepEqual(
    [...describeArchitecture(makeCheckpoint(two)).stacks],
    [
      ["vision.blocks.", 4],
      ["text.layers.", 2],
    ],
  );
});

test("embeddings and heads are known by name, ambiguous names by the vocabulary's rows", () => {
  const cases: readonly (readonly [string, readonly number[], number | undefined, "embedding" | "head" | undefined])[] =
    [
      ["model.embed_tokens.weight", [10, 4], undefined, "embedding"],
      ["transformer.wte.weight", [10, 4], 10, "embedding"],
      ["shared.weight", [10, 4], undefined, "embedding"],
      ["lm_head.weight", [10, 4], undefined, "head"],
      ["embed_out.weight", [10, 4], undefined, "head"],
      ["output.weight", [10, 4], 10, "head"],
      ["output.weight", [10, 4], 12, undefined],
      ["backbone.embeddings.weight", [10, 4], 10, "embedding"],
      ["backbone.embeddings.weight", [10, 4], undefined, undefined],
      ["model.embed_tokens.weight", [10], undefined, undefined],
      ["model.layers.0.embed_tokens.weight", [10, 4], undefined, undefined],
      ["model.norm.weight", [10, 4], 10, undefined],
    ];
  for (const [name, shape, vocabulary, role] of cases) {
    assert.equal(tensorRole({ name, shape, dtype: "F32", ranges: [] }, vocabulary), role, `${name} ${vocabulary}`);
  }
});

test("names outside layers say on which side of them they stand", () => {
  const cases: readonly (readonly [string, "before" | "after" | undefined])[] = [
    ["model.embed_tokens.weight", "before"],
    ["transformer.wpe.weight", "before"],
    ["embeddings.LayerNorm.weight", "before"],
    ["word_embeddings_layernorm.weight", "before"],
    ["vision_model.pre_layrnorm.weight", "before"],
    ["embeddings.patch_embeddings.projection.weight", "before"],
    ["gpt_neox.embed_in.weight", "before"],
    ["embed_out.weight", "after"],
    ["lm_head.weight", "after"],
    ["model.norm.weight", "after"],
    ["transformer.ln_f.bias", "after"],
    ["layernorm.weight", "after"],
    ["gpt_neox.final_layer_norm.weight", "after"],
    ["classifier.weight", "after"],
    ["mystery", undefined],
  ];
  for (const [name, side] of cases) assert.equal(tensorSide(name), side, name);
});

test("a model that may tie its embeddings reads its head from them, one that says no does not", () => {
  const head = { name: "lm_head.weight", dtype: "F32", shape: [10, 4], ranges: [] } as const;
  const tied = describeArchitecture(makeLlama({ head: false, tied: true }));
  assert.equal(findTied(tied, head)?.name, "model.embed_tokens.weight");
  assert.equal(findTied(describeArchitecture(makeLlama({ head: false, tied: false })), head), undefined);
  assert.equal(findTied(tied, { ...head, shape: [10, 5] }), undefined);
  const unsaid = describeArchitecture(makeCheckpoint({ "model.embed_tokens.weight": [10, 4] }));
  assert.equal(findTied(unsaid, head)?.name, "model.embed_tokens.weight");
});

test("names are ordered with their numbers as numbers", () => {
  const sorted = ["embed", "l.2.b", "l.2.w", "l.10.w", "l.10.w.9", "lm_head"];
  assert.deepEqual([...sorted].reverse().sort(compareNames), sorted);
});

test("the order of names is total: antisymmetric, transitive, and equal for the same name alone", () => {
  const name = fc
    .array(fc.constantFrom("a", "b", ".", "1", "10", "01", "2"), { maxLength: 6 })
    .map((parts) => parts.join(""));
  fc.assert(
    fc.property(name, name, name, (a, b, c) => {
      assert.equal(Math.sign(compareNames(a, b)) + Math.sign(compareNames(b, a)), 0);
      assert.equal(compareNames(a, b) === 0, a === b);
      if (compareNames(a, b) <= 0 && compareNames(b, c) <= 0) assert.ok(compareNames(a, c) <= 0);
    }),
  );
});
