// The built-in tables of families. Goal: a checkpoint that says nothing of its ranks comes back from two of them as it
// was. Method: models with each family's names, whose cuts are spelled out here and not taken from the tables, are
// written for two tensor-parallel ranks without any patterns, and read by the table.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { parseUniversal } from "../../core/artifact/universal.ts";
import type { JsonObject } from "../../core/json.ts";
import type { Shape } from "../../core/tensor.ts";
import type { ConversionParameter } from "../../core/universal/conversion.ts";
import type { FamilyId } from "../../core/universal/family-ids.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { putText } from "./deps.ts";
import { convertInto } from "./folders.ts";
import { putTraining } from "./training-model.ts";

type Pattern = ConversionParameter["pattern"];
type Model = readonly (readonly [name: string, shape: Shape, pattern: Pattern])[];

const REPLICATED: Pattern = { kind: "replicated" };
const AVERAGED: Pattern = { kind: "averaged" };
const COLUMN: Pattern = { kind: "fragment", dim: 0 };
const ROW: Pattern = { kind: "fragment", dim: 1 };
const PARTS = (...lengths: readonly number[]): Pattern => {
  return { kind: "fragment", dim: 0, parts: lengths.map((length) => ({ length })) };
};
/** Rows of the vocabulary: 30 as saved, padded to 32. */
const ROWS = 30;
const PADDED = 32;

const HF_LAYER = "model.layers.0";
const hfModel = (mlp: Model, embedding: Pattern): Model => [
  ["model.embed_tokens.weight", [ROWS, 8], embedding],
  [`${HF_LAYER}.self_attn.q_proj.weight`, [8, 8], COLUMN],
  [`${HF_LAYER}.self_attn.k_proj.weight`, [4, 8], COLUMN],
  [`${HF_LAYER}.self_attn.v_proj.weight`, [4, 8], COLUMN],
  [`${HF_LAYER}.self_attn.q_proj.bias`, [8], COLUMN],
  [`${HF_LAYER}.self_attn.o_proj.weight`, [8, 8], ROW],
  [`${HF_LAYER}.self_attn.q_norm.weight`, [4], REPLICATED],
  [`${HF_LAYER}.input_layernorm.weight`, [8], REPLICATED],
  [`${HF_LAYER}.post_attention_layernorm.weight`, [8], REPLICATED],
  ...mlp,
  ["model.norm.weight", [8], REPLICATED],
  ["lm_head.weight", [ROWS, 8], embedding],
];
const LLAMA_MLP: Model = [
  [`${HF_LAYER}.mlp.gate_proj.weight`, [12, 8], COLUMN],
  [`${HF_LAYER}.mlp.up_proj.weight`, [12, 8], COLUMN],
  [`${HF_LAYER}.mlp.down_proj.weight`, [8, 12], ROW],
];
const MIXTRAL_MLP: Model = [
  [`${HF_LAYER}.block_sparse_moe.gate.weight`, [2, 8], REPLICATED],
  ...[0, 1].flatMap((expert): Model => {
    const prefix = `${HF_LAYER}.block_sparse_moe.experts.${expert}`;
    return [
      [`${prefix}.w1.weight`, [12, 8], COLUMN],
      [`${prefix}.w2.weight`, [8, 12], ROW],
      [`${prefix}.w3.weight`, [12, 8], COLUMN],
    ];
  }),
];

/** `prefix` "": a pipeline module whose embedding is tied; `keys`: rows of keys, and of values. */
const neoxModel = (prefix: string, keys: number, isGated: boolean): Model => [
  [`${prefix === "" ? "tied_modules.embed" : "sequential.0"}.word_embeddings.weight`, [PADDED, 8], COLUMN],
  [`${prefix}2.input_layernorm.weight`, [8], AVERAGED],
  [`${prefix}2.input_layernorm.bias`, [8], AVERAGED],
  [`${prefix}2.attention.query_key_value.weight`, [8 + 2 * keys, 8], keys === 8 ? COLUMN : PARTS(8, keys, keys)],
  [`${prefix}2.attention.query_key_value.bias`, [8 + 2 * keys], keys === 8 ? COLUMN : PARTS(8, keys, keys)],
  [`${prefix}2.attention.dense.weight`, [8, 8], ROW],
  [`${prefix}2.attention.dense.bias`, [8], REPLICATED],
  [`${prefix}2.post_attention_layernorm.weight`, [8], AVERAGED],
  [`${prefix}2.mlp.linear1.weight`, [isGated ? 24 : 12, 8], isGated ? PARTS(12, 12) : COLUMN],
  [`${prefix}2.mlp.linear2.weight`, [8, 12], ROW],
  [`${prefix}2.mlp.linear2.bias`, [8], REPLICATED],
  [`${prefix}4.norm.weight`, [8], AVERAGED],
  [`${prefix}5.final_linear.weight`, [PADDED, 8], COLUMN],
];

const megatronModel = (layer: string, names: readonly [embedding: string, norm: string, head: string]): Model => [
  [`${names[0]}.word_embeddings.weight`, [PADDED, 8], COLUMN],
  [`${names[0]}.position_embeddings.weight`, [16, 8], REPLICATED],
  [`${layer}.input_layernorm.weight`, [8], REPLICATED],
  [`${layer}.input_layernorm.bias`, [8], REPLICATED],
  [`${layer}.self_attention.query_key_value.weight`, [24, 8], COLUMN],
  [`${layer}.self_attention.query_key_value.bias`, [24], COLUMN],
  [`${layer}.self_attention.dense.weight`, [8, 8], ROW],
  [`${layer}.self_attention.dense.bias`, [8], REPLICATED],
  [`${layer}.mlp.dense_h_to_4h.weight`, [24, 8], PARTS(12, 12)],
  [`${layer}.mlp.dense_h_to_4h.bias`, [24], PARTS(12, 12)],
  [`${layer}.mlp.dense_4h_to_h.weight`, [8, 12], ROW],
  [`${layer}.mlp.dense_4h_to_h.bias`, [8], REPLICATED],
  [`${names[1]}.weight`, [8], REPLICATED],
  [`${names[2]}.weight`, [PADDED, 8], COLUMN],
];

type Case = {
  readonly title: string;
  readonly family: FamilyId;
  readonly model: Model;
  readonly config?: Readonly<Record<string, unknown>>;
  /** What the trainer saved beside the weights. */
  readonly client?: JsonObject;
  /** The trainer padded the embeddings. */
  readonly isPadded?: boolean;
};

const VOCABULARY = { vocab_size: ROWS };
const PLAIN = "language_model.encoder";
const CASES: readonly Case[] = [
  {
    title: "llama, embeddings whole",
    family: "llama",
    model: hfModel(LLAMA_MLP, REPLICATED),
    config: { model_type: "llama", ...VOCABULARY },
  },
  {
    title: "llama, vocabulary cut and padded",
    family: "llama",
    model: hfModel(LLAMA_MLP, COLUMN),
    config: { model_type: "qwen3", ...VOCABULARY },
    isPadded: true,
  },
  { title: "llama, embeddings cut on axis 1", family: "llama", model: hfModel(LLAMA_MLP, ROW) },
  {
    title: "mixtral",
    family: "mixtral",
    model: hfModel(MIXTRAL_MLP, REPLICATED),
    config: { model_type: "mixtral", ...VOCABULARY },
  },
  {
    title: "gpt-neox, pipeline module",
    family: "gpt-neox",
    model: neoxModel("", 8, false),
    client: { args: { model_parallel_size: 2, padded_vocab_size: PADDED } },
  },
  { title: "gpt-neox, sequence, grouped queries, gate", family: "gpt-neox", model: neoxModel("sequential.", 2, true) },
  {
    title: "megatron-gpt, pipeline module",
    family: "megatron-gpt",
    model: megatronModel("2", ["tied_modules.embed", "3", "4.lm_head"]),
    client: { args: { tensor_model_parallel_size: 2, padded_vocab_size: PADDED }, checkpoint_version: 3 },
  },
  {
    title: "megatron-gpt, plain",
    family: "megatron-gpt",
    model: megatronModel(`${PLAIN}.layers.2`, [
      "language_model.embedding",
      `${PLAIN}.final_layernorm`,
      "language_model.output_layer",
    ]),
  },
];

async function putModel({ model, isPadded, config, client }: Case): Promise<ObjectStore> {
  const store = await putTraining(
    model.map(([name, shape, pattern]) => {
      return { name, shape, pattern, paddedRows: isPadded === true && shape[0] === ROWS ? PADDED : undefined };
    }),
    client,
  );
  if (config !== undefined) await putText(store, "config.json", JSON.stringify(config));
  return store;
}

/** The model as files of two tensor-parallel ranks, without config.json unless the case has one. */
async function writeRanks(each: Case, zero: 1 | 3): Promise<ObjectStore> {
  const { config, ...bare } = each;
  const source = await putModel(bare);
  const { target } = await convertInto(source, "deepspeed", { topology: { tp: 2, pp: 1, dp: 2, zero } });
  if (config !== undefined) await putText(target, "config.json", JSON.stringify(config));
  return target;
}

async function documentOf(store: ObjectStore) {
  const universal = parseUniversal(await readAll(store, "universal.json", 1e7));
  return { ...universal, patterns: new Map(universal.parameters.map(({ name, pattern }) => [name, pattern])) };
}

suite("a checkpoint of two tensor-parallel ranks that states no patterns", () => {
  for (const each of CASES) {
    test(`comes back by the table that is named: ${each.title}`, async () => {
      const source = await putModel(each);
      const { output: expected } = await convertInto(source, "universal");
      for (const zero of [1, 3] as const) {
        const ranks = await writeRanks(each, zero);
        const { target, output } = await convertInto(ranks, "universal", { patterns: { family: each.family } });
        assert.equal(output.contents, expected.contents);
        const universal = await documentOf(target);
        assert.deepEqual(universal.patterns, (await documentOf(source)).patterns);
        assert.equal(universal.source.family, each.family);
        assert.match(output.warnings.join("\n"), new RegExp(`FamilyPatterns: .*family ${each.family}, as asked for`));
        // What the table said stays with the state, so that files for other ranks state it.
        const { target: others } = await convertInto(target, "deepspeed", {
          topology: { tp: 2, pp: 1, dp: 1, zero: 2 },
        });
        const { output: again } = await convertInto(others, "universal");
        assert.equal(again.contents, expected.contents);
        assert.deepEqual(
          again.warnings.filter((text) => !text.startsWith("TrainerStateIgnored")),
          [],
        );
      }
    });

    test(`is told by what lies beside it: ${each.title}`, async () => {
      const ranks = await writeRanks(each, 1);
      if (each.config?.model_type === undefined && each.client === undefined) {
        await assert.rejects(convertInto(ranks, "universal"), { code: "UniversalPatternsMissing" });
        return;
      }
      const { output } = await convertInto(ranks, "universal");
      const { output: expected } = await convertInto(await putModel(each), "universal");
      assert.equal(output.contents, expected.contents);
      assert.match(
        output.warnings.join("\n"),
        /FamilyPatterns: .*(model_type \w+ in config\.json|trainer's arguments)/,
      );
    });
  }
});
