// How tensor-parallel ranks cut the parameters of known families of models, as data: for checkpoints that do not say it
// themselves. Every parameter must be named by one row, so that none is joined by a guess. family-patterns.ts turns a
// table into patterns; readers of training checkpoints choose the family.
import * as z from "zod";
import { FAMILY_IDS, type FamilyId } from "./family-ids.ts";

/**
 * replicated: the same on every rank. averaged: updated apart, the mean counts. column: cut on axis 0. row: on axis 1.
 * Three depend on shapes. gate_up: column, or gate and up joined and each cut by itself, when it has twice the rows
 * that `beside` (the matrix behind it) has columns. query_key_value: column when query, key and value are as long as
 * each other (`beside` is the weight), else three parts, each cut by itself. embedding: whole, or cut on either axis.
 * vocabulary: column, rows padded to the ranks.
 */
const CUTS = [
  "replicated",
  "averaged",
  "column",
  "row",
  "gate_up",
  "query_key_value",
  "embedding",
  "vocabulary",
] as const;

const rowSchema = z.strictObject({
  cut: z.enum(CUTS),
  /** As core/universal/name-pattern.ts takes them. */
  patterns: z.array(z.string()).min(1),
  /** End of the name of the parameter whose shape decides. */
  beside: z.string().optional(),
});

const familySchema = z.strictObject({
  id: z.enum(FAMILY_IDS),
  title: z.string(),
  /** `model_type` of a config.json that is of the family. */
  modelTypes: z.array(z.string()),
  /** The trainer's arguments in a checkpoint of the family; all of them together are evidence. */
  trainerArguments: z.array(z.string()),
  /** Below this `checkpoint_version` query, key and value lie in another order. */
  leastVersion: z.number().optional(),
  rows: z.array(rowSchema).min(1),
  /** Parameters of which pipeline stages hold copies. */
  pipelineReplicated: z.array(z.string()),
});

export type ModelFamily = Readonly<z.infer<typeof familySchema>>;
export type FamilyRow = ModelFamily["rows"][number];

/** Attention and norms of Hugging Face's models of the llama kind. */
const HF_ATTENTION: readonly FamilyRow[] = [
  { cut: "column", patterns: [".*\\.self_attn\\.[qkv]_proj\\.(weight|bias)$"] },
  { cut: "row", patterns: [".*\\.self_attn\\.o_proj\\.weight$"] },
  {
    cut: "replicated",
    patterns: [
      ".*\\.self_attn\\.(o_proj\\.bias|[qk]_norm\\.weight)$",
      ".*\\.(input|post_attention)_layernorm\\.weight$",
      "(.*\\.)?norm\\.weight$",
    ],
  },
  // DeepSpeed's presets leave them whole, its older parser cuts embeddings on axis 1, tensor-parallel plans on axis 0.
  {
    cut: "embedding",
    patterns: ["(.*\\.)?embed_tokens\\.weight$", "(.*\\.)?lm_head\\.weight$"],
    beside: "input_layernorm.weight",
  },
];

// Source: DeepSpeed 0.19.6, deepspeed/module_inject: autotp_config.py (AutoTPPresets.llama, .qwen2, .mixtral),
// auto_tp.py (_replace, _slice_embedding), layers.py (bias of LinearAllreduce whole, of LinearLayer cut).
const llama: ModelFamily = {
  id: "llama",
  title: "Llama, Mistral and Qwen under DeepSpeed's AutoTP, with names of Hugging Face",
  modelTypes: ["llama", "mistral", "qwen2", "qwen3"],
  trainerArguments: [],
  rows: [
    ...HF_ATTENTION,
    { cut: "column", patterns: [".*\\.mlp\\.(gate|up)_proj\\.(weight|bias)$"] },
    { cut: "row", patterns: [".*\\.mlp\\.down_proj\\.weight$"] },
    { cut: "replicated", patterns: [".*\\.mlp\\.down_proj\\.bias$"] },
  ],
  pipelineReplicated: [],
};

const mixtral: ModelFamily = {
  id: "mixtral",
  title: "Mixtral under DeepSpeed's AutoTP, with names of Hugging Face",
  modelTypes: ["mixtral"],
  trainerArguments: [],
  rows: [
    ...HF_ATTENTION,
    { cut: "replicated", patterns: [".*\\.block_sparse_moe\\.gate\\.weight$"] },
    { cut: "column", patterns: [".*\\.block_sparse_moe\\.experts\\.\\d+\\.w[13]\\.weight$"] },
    { cut: "row", patterns: [".*\\.block_sparse_moe\\.experts\\.\\d+\\.w2\\.weight$"] },
  ],
  pipelineReplicated: [],
};

/** A layer of a pipeline module, or of the same as a sequence. */
const NEOX_LAYER = "(sequential\\.)?\\d+\\.";

// Source: EleutherAI/gpt-neox (May 2026): tools/ckpts/convert_neox_to_hf.py (MODEL_KEYS, reshard_and_split_qkv: norms
// are averaged), megatron/model/transformer.py (gqa_project, Gated_Activation, qk_layernorm of a rank's heads),
// gpt2_model.py (TiedLayerSpec "embed"), word_embeddings.py. With gpt_j_residual the biases of row-parallel layers are
// terms of a sum over ranks; such differ and are refused as replicas.
const gptNeox: ModelFamily = {
  id: "gpt-neox",
  title: "GPT-NeoX (EleutherAI)",
  modelTypes: [],
  trainerArguments: ["model_parallel_size", "padded_vocab_size"],
  rows: [
    {
      cut: "query_key_value",
      patterns: ["weight", "bias"].map((name) => `${NEOX_LAYER}attention\\.query_key_value\\.${name}$`),
      beside: "attention.query_key_value.weight",
    },
    {
      cut: "column",
      patterns: [
        `${NEOX_LAYER}attention\\.qk_layernorm\\.(weight|bias|scale|offset)$`,
        `${NEOX_LAYER}mlp\\.w[13]\\.weight$`,
      ],
    },
    {
      cut: "gate_up",
      patterns: [`${NEOX_LAYER}mlp\\.linear1\\.(weight|bias)$`],
      beside: "mlp.linear2.weight",
    },
    {
      cut: "gate_up",
      patterns: [`${NEOX_LAYER}mlp\\.dense_h_to_4h\\.(weight|bias)$`],
      beside: "mlp.dense_4h_to_h.weight",
    },
    { cut: "row", patterns: [`${NEOX_LAYER}(attention\\.dense|mlp\\.(linear2|dense_4h_to_h|w2))\\.weight$`] },
    { cut: "replicated", patterns: [`${NEOX_LAYER}(attention\\.dense|mlp\\.(linear2|dense_4h_to_h))\\.bias$`] },
    {
      cut: "averaged",
      patterns: [`${NEOX_LAYER}((input|post_attention)_layernorm|norm)\\.(weight|bias|scale|offset)$`],
    },
    {
      cut: "vocabulary",
      patterns: [
        `(tied_modules\\.embed\\.|${NEOX_LAYER})word_embeddings\\.weight$`,
        `${NEOX_LAYER}final_linear\\.weight$`,
      ],
    },
    { cut: "replicated", patterns: [`(tied_modules\\.embed\\.|${NEOX_LAYER})position_embeddings\\.weight$`] },
  ],
  pipelineReplicated: ["tied_modules\\.embed\\."],
};

/** A layer of a pipeline module, or of the plain model. */
const MEGATRON_LAYER = "(language_model\\.encoder\\.layers\\.)?\\d+\\.";
const MEGATRON_EMBEDDING = "(tied_modules\\.embed\\.|\\d+\\.|language_model\\.embedding\\.)";

// Source: deepspeedai/Megatron-DeepSpeed (July 2025): megatron/model/gpt_model.py (UniversalCheckpointInfo, what it
// puts into newer checkpoints) and checkpointing.py (fix_query_key_value_ordering: fused query, key and value lie by
// groups of heads since checkpoint_version 1).
const megatronGpt: ModelFamily = {
  id: "megatron-gpt",
  title: "GPT of Megatron-DeepSpeed",
  modelTypes: [],
  trainerArguments: ["tensor_model_parallel_size", "padded_vocab_size"],
  leastVersion: 1,
  rows: [
    { cut: "column", patterns: [`${MEGATRON_LAYER}self_attention\\.query_key_value\\.(weight|bias)$`] },
    {
      cut: "gate_up",
      patterns: [`${MEGATRON_LAYER}mlp\\.dense_h_to_4h\\.(weight|bias)$`],
      beside: "mlp.dense_4h_to_h.weight",
    },
    { cut: "row", patterns: [`${MEGATRON_LAYER}(self_attention\\.dense|mlp\\.dense_4h_to_h)\\.weight$`] },
    {
      cut: "replicated",
      patterns: [
        `${MEGATRON_LAYER}(self_attention\\.dense|mlp\\.dense_4h_to_h)\\.bias$`,
        `${MEGATRON_LAYER}(input|post_attention)_layernorm\\.(weight|bias)$`,
        "(\\d+|language_model\\.encoder\\.final_layernorm)\\.(weight|bias)$",
        `${MEGATRON_EMBEDDING}position_embeddings\\.weight$`,
      ],
    },
    {
      cut: "vocabulary",
      patterns: [
        `${MEGATRON_EMBEDDING}word_embeddings\\.weight$`,
        "(\\d+\\.lm_head|language_model\\.output_layer)\\.weight$",
      ],
    },
  ],
  pipelineReplicated: ["tied_modules\\.embed\\."],
};

/** Of a block of layers, or of a head that predicts further tokens. */
const CORE_LAYER = "(.*\\.)?layers\\.\\d+\\.((transformer|mtp_model)_layer\\.)?";
const CORE_EXPERT = `${CORE_LAYER}mlp\\.experts\\.experts\\.\\d+\\.`;
const CORE_SHARED = `${CORE_LAYER}mlp\\.shared_experts\\.`;
const CORE_MLP = `${CORE_LAYER}mlp\\.((shared_experts|experts\\.experts\\.\\d+)\\.)?`;
const CORE_ATTENTION = `${CORE_LAYER}(self|cross)_attention\\.`;

// Source: NVIDIA/Megatron-LM (August 2026), megatron/core: transformer/{attention,mlp,transformer_layer}.py,
// transformer/multi_latent_attention.py, transformer/moe/{experts,shared_experts,router}.py, and the axes of
// sharded_state_dict in extensions/transformer_engine.py; norms that Transformer Engine fuses into the linear layer
// behind them are its layer_norm_weight. Fused query, key and value lie by groups of heads, each group on one rank.
const megatronCore: ModelFamily = {
  id: "megatron-core",
  title: "GPT of Megatron-Core, with layers of Transformer Engine or its own, and its mixtures of experts",
  modelTypes: [],
  trainerArguments: [],
  rows: [
    {
      cut: "column",
      patterns: [
        `${CORE_ATTENTION}linear_(qkv|q|kv)\\.(weight|bias)$`,
        `${CORE_ATTENTION}linear_(q_proj|q_up_proj|kv_up_proj)\\.weight$`,
      ],
    },
    { cut: "row", patterns: [`${CORE_ATTENTION}linear_proj\\.weight$`, `${CORE_MLP}linear_fc2\\.weight$`] },
    { cut: "gate_up", patterns: [`${CORE_LAYER}mlp\\.linear_fc1\\.(weight|bias)$`], beside: "mlp.linear_fc2.weight" },
    {
      cut: "gate_up",
      patterns: [`${CORE_SHARED}linear_fc1\\.(weight|bias)$`],
      beside: "shared_experts.linear_fc2.weight",
    },
    { cut: "gate_up", patterns: [`${CORE_EXPERT}linear_fc1\\.(weight|bias)$`], beside: "experts.0.linear_fc2.weight" },
    {
      cut: "replicated",
      patterns: [
        `${CORE_ATTENTION}linear_proj\\.bias$`,
        `${CORE_MLP}linear_fc2\\.bias$`,
        `${CORE_ATTENTION}linear_[a-z_]+\\.layer_norm_(weight|bias)$`,
        `${CORE_MLP}linear_fc1\\.layer_norm_(weight|bias)$`,
        `${CORE_ATTENTION}(q|k|kv)_layernorm\\.(weight|bias)$`,
        `${CORE_LAYER}(input|pre_cross_attn|pre_mlp)_layernorm\\.(weight|bias)$`,
        `${CORE_LAYER}mlp\\.router\\.(weight|bias|expert_bias)$`,
        `${CORE_SHARED}gate_weight$`,
        "(decoder|encoder)\\.final_(layernorm|norm)\\.(weight|bias)$",
        "embedding\\.position_embeddings\\.weight$",
      ],
    },
    { cut: "vocabulary", patterns: ["embedding\\.word_embeddings\\.weight$", "output_layer\\.(weight|bias)$"] },
  ],
  pipelineReplicated: [],
};

export const MODEL_FAMILIES: ReadonlyMap<FamilyId, ModelFamily> = new Map(
  [llama, mixtral, gptNeox, megatronGpt, megatronCore].map((family) => [
    family.id,
    Object.freeze(familySchema.parse(family)),
  ]),
);
