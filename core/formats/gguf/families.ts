// The families of models that GGUF files are written of and read as: one entry each. What an entry cannot say by names
// and numbers is no family of this table.
// Source: llama.cpp v0.5.0, conversion/*.py and src/models/*.cpp; transformers 5.18, the models' configurations.
import type { GgufFamily } from "./names.ts";

const ATTENTION: Readonly<Record<string, string>> = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
};
const GATED: Readonly<Record<string, string>> = {
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};
/** A norm before each half of a layer. */
const NORMED: Readonly<Record<string, string>> = { input_layernorm: "attn_norm", post_attention_layernorm: "ffn_norm" };
/** Norms before and after both halves. */
const NORMED_TWICE: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};
/** A norm after each half of a layer alone. */
const NORMED_AFTER: Readonly<Record<string, string>> = {
  post_attention_layernorm: "post_attention_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};
const HEAD_NORMS: Readonly<Record<string, string>> = {
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
};
const USUAL = { ...NORMED, ...ATTENTION, ...GATED };
const QKV_BIASES = ["attn_q", "attn_k", "attn_v"];

const LLAMA = {
  architecture: "llama",
  permutes: true,
  parts: USUAL,
  biases: [...QKV_BIASES, "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
  biasFields: { attn_q: "attention_bias", ffn_up: "mlp_bias" },
  statesVocabulary: true,
  rotary: 1,
};

const QWEN_EXPERTS = {
  router: "mlp.gate",
  parts: { gate: "mlp.experts.E.gate_proj", up: "mlp.experts.E.up_proj", down: "mlp.experts.E.down_proj" },
  countKey: "num_experts",
  innerKey: "moe_intermediate_size",
} as const;

const OLMO2 = {
  architecture: "olmo2",
  permutes: false,
  fillsHidden: true,
  parts: { ...NORMED_AFTER, ...ATTENTION, ...GATED, ...HEAD_NORMS },
  normsAcross: true,
  tied: false,
};

const COHERE = {
  permutes: false,
  fillsHidden: true,
  parts: { input_layernorm: "attn_norm", ...ATTENTION, ...GATED },
  layerNorm: "layer_norm_eps",
  tiedByDefault: true,
  tied: true,
  constants: { "rope.scaling.type": "none" },
};
const SLIDING_WINDOW = { field: "sliding_window", key: "attention.sliding_window", kind: "u32" } as const;
const LOGIT_SCALE = { field: "logit_scale", key: "logit_scale", kind: "f32" } as const;

const GEMMA = {
  permutes: false,
  headSize: 256,
  normShift: 1,
  tiedByDefault: true,
  statesHeadSize: true,
  activation: "gelu_pytorch_tanh",
};

/** Of two with the same architecture and experts, a reader takes the first. */
export const GGUF_FAMILIES: readonly GgufFamily[] = Object.freeze<GgufFamily[]>([
  { ...LLAMA, modelType: "llama", className: "LlamaForCausalLM" },
  { ...LLAMA, modelType: "mistral", className: "MistralForCausalLM" },
  { ...LLAMA, modelType: "mistral", className: "MistralForCausalLM", architecture: "mistral3" },
  {
    ...LLAMA,
    modelType: "mixtral",
    className: "MixtralForCausalLM",
    biases: QKV_BIASES,
    biasFields: {},
    experts: {
      router: "block_sparse_moe.gate",
      parts: {
        gate: "block_sparse_moe.experts.E.w1",
        up: "block_sparse_moe.experts.E.w3",
        down: "block_sparse_moe.experts.E.w2",
      },
      countKey: "num_local_experts",
      innerKey: "intermediate_size",
      fixed: {},
    },
  },
  {
    modelType: "qwen2",
    className: "Qwen2ForCausalLM",
    architecture: "qwen2",
    permutes: false,
    fillsHidden: true,
    parts: USUAL,
    biases: QKV_BIASES,
    fixed: { use_sliding_window: false },
  },
  {
    modelType: "qwen2_moe",
    className: "Qwen2MoeForCausalLM",
    architecture: "qwen2moe",
    permutes: false,
    fillsHidden: true,
    parts: {
      ...USUAL,
      "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
      "mlp.shared_expert.up_proj": "ffn_up_shexp",
      "mlp.shared_expert.down_proj": "ffn_down_shexp",
      "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    },
    biases: QKV_BIASES,
    tied: false,
    experts: { ...QWEN_EXPERTS, fixed: { norm_topk_prob: false }, sharedKey: "shared_expert_intermediate_size" },
    entries: [{ field: "shared_expert_intermediate_size", key: "expert_shared_feed_forward_length", kind: "u32" }],
    fixed: { use_sliding_window: false, decoder_sparse_step: 1, qkv_bias: true },
  },
  {
    modelType: "qwen3",
    className: "Qwen3ForCausalLM",
    architecture: "qwen3",
    permutes: false,
    parts: { ...USUAL, ...HEAD_NORMS },
    headSize: 128,
    fixed: { use_sliding_window: false },
  },
  {
    modelType: "qwen3_moe",
    className: "Qwen3MoeForCausalLM",
    architecture: "qwen3moe",
    permutes: false,
    parts: { ...USUAL, ...HEAD_NORMS },
    experts: { ...QWEN_EXPERTS, fixed: { norm_topk_prob: true } },
    fixed: { use_sliding_window: false },
  },
  { ...GEMMA, modelType: "gemma", className: "GemmaForCausalLM", architecture: "gemma", parts: USUAL },
  {
    ...GEMMA,
    modelType: "gemma2",
    className: "Gemma2ForCausalLM",
    architecture: "gemma2",
    parts: { ...NORMED_TWICE, ...ATTENTION, ...GATED },
    windows: { pattern: 2, window: 4096, largeLayers: 46, capped: true, localTheta: false },
  },
  {
    ...GEMMA,
    modelType: "gemma3_text",
    className: "Gemma3ForCausalLM",
    architecture: "gemma3",
    parts: { ...NORMED_TWICE, ...ATTENTION, ...GATED, ...HEAD_NORMS },
    defaults: {
      vocab_size: 262208,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-6,
      query_pre_attn_scalar: 256,
    },
    theta: 1_000_000,
    windows: { pattern: 6, window: 1024, largeLayers: 62, capped: false, localTheta: true },
  },
  {
    ...LLAMA,
    modelType: "granite",
    className: "GraniteForCausalLM",
    architecture: "granite",
    entries: [
      { field: "attention_multiplier", key: "attention.scale", kind: "f32" },
      { field: "embedding_multiplier", key: "embedding_scale", kind: "f32" },
      { field: "residual_multiplier", key: "residual_scale", kind: "f32" },
      { field: "logits_scaling", key: "logit_scale", kind: "f32" },
    ],
  },
  {
    modelType: "smollm3",
    className: "SmolLM3ForCausalLM",
    architecture: "smollm3",
    permutes: true,
    parts: USUAL,
    tiedByDefault: true,
    statesVocabulary: true,
    rotary: 1,
    fixed: { use_sliding_window: false, no_rope_layer_interval: 4 },
    layers: { no_rope_layers: [1, 1, 1, 0] },
  },
  {
    ...OLMO2,
    modelType: "olmo3",
    className: "Olmo3ForCausalLM",
    entries: [SLIDING_WINDOW],
    kinds: {
      field: "layer_types",
      key: "attention.sliding_window_pattern",
      values: ["sliding_attention", "full_attention"],
    },
    ropeByKinds: true,
    marker: "attention.sliding_window",
  },
  { ...OLMO2, modelType: "olmo2", className: "Olmo2ForCausalLM" },
  {
    modelType: "olmoe",
    className: "OlmoeForCausalLM",
    architecture: "olmoe",
    permutes: false,
    fillsHidden: true,
    sharesHeads: false,
    parts: { ...USUAL, ...HEAD_NORMS },
    normsAcross: true,
    tied: false,
    experts: { ...QWEN_EXPERTS, innerKey: "intermediate_size", fixed: { norm_topk_prob: false } },
    fixed: { clip_qkv: null },
  },
  {
    modelType: "seed_oss",
    className: "SeedOssForCausalLM",
    architecture: "seed_oss",
    permutes: false,
    parts: { ...ATTENTION, ...GATED, input_layernorm: "attn_norm", post_attention_layernorm: "post_attention_norm" },
    biases: QKV_BIASES,
    biasFields: { attn_q: "attention_bias" },
  },
  {
    modelType: "exaone4",
    className: "Exaone4ForCausalLM",
    architecture: "exaone4",
    permutes: false,
    fillsHidden: true,
    parts: { ...NORMED_AFTER, ...ATTENTION, ...GATED, ...HEAD_NORMS },
    statesVocabulary: true,
    fixed: { sliding_window: null },
    layers: { layer_types: ["full_attention"] },
  },
  {
    modelType: "ernie4_5",
    className: "Ernie4_5ForCausalLM",
    architecture: "ernie4_5",
    permutes: false,
    parts: USUAL,
    tiedByDefault: true,
    fixed: { use_bias: false },
  },
  {
    modelType: "phi3",
    className: "Phi3ForCausalLM",
    architecture: "phi3",
    permutes: false,
    fillsHidden: true,
    parts: {
      ...NORMED,
      "self_attn.qkv_proj": "attn_qkv",
      "self_attn.o_proj": "attn_output",
      "mlp.gate_up_proj": "ffn_up",
      "mlp.down_proj": "ffn_down",
    },
    fusesGate: true,
    takesLong: true,
    rotary: 1,
    entries: [
      { field: "original_max_position_embeddings", key: "rope.scaling.original_context_length", kind: "u32" },
      { ...SLIDING_WINDOW, absent: 0 },
    ],
  },
  {
    modelType: "glm4",
    className: "Glm4ForCausalLM",
    architecture: "glm4",
    permutes: false,
    parts: {
      ...ATTENTION,
      input_layernorm: "attn_norm",
      post_self_attn_layernorm: "post_attention_norm",
      post_attention_layernorm: "ffn_norm",
      post_mlp_layernorm: "post_ffw_norm",
      "mlp.gate_up_proj": "ffn_up",
      "mlp.down_proj": "ffn_down",
    },
    biases: QKV_BIASES,
    biasFields: { attn_q: "attention_bias" },
    fusesGate: true,
    rotary: 0.5,
    special: { bos: "<|endoftext|>", eos: "<|endoftext|>", unk: "<|endoftext|>", eot: "<|user|>" },
  },
  {
    ...COHERE,
    modelType: "cohere",
    className: "CohereForCausalLM",
    architecture: "command-r",
    entries: [LOGIT_SCALE],
    fixed: { use_qk_norm: false },
  },
  {
    ...COHERE,
    modelType: "cohere2",
    className: "Cohere2ForCausalLM",
    architecture: "cohere2",
    statesVocabulary: true,
    rotary: 1,
    entries: [LOGIT_SCALE, SLIDING_WINDOW],
    fixed: { use_qk_norm: false, sliding_window_pattern: 4, rotary_pct: 1 },
    layers: { layer_types: ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] },
  },
  {
    modelType: "starcoder2",
    className: "Starcoder2ForCausalLM",
    architecture: "starcoder2",
    permutes: false,
    fillsHidden: true,
    parts: { ...NORMED, ...ATTENTION, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down" },
    biases: [...QKV_BIASES, "attn_output", "ffn_up", "ffn_down", "attn_norm", "ffn_norm", "output_norm"],
    biasFields: { attn_q: "use_bias" },
    needsBiases: true,
    layerNorm: "norm_epsilon",
    tiedByDefault: true,
    activation: "gelu_pytorch_tanh",
  },
]);
