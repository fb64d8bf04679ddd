// What dense models can become the experts of: names of tensors and keys of config.json of each architecture. Data, not
// code: an architecture is an entry of the table.
// Source: transformers' model classes and their configs' defaults; mergekit `moe/{mixtral,deepseek,qwen,qwen3}.py`.

/** The matrices of a dense model's layer that an expert is. */
export const EXPERT_PARTS = ["gate_proj", "up_proj", "down_proj"] as const;
export type ExpertPart = (typeof EXPERT_PARTS)[number];

export type MoeCounts = { readonly experts: number; readonly active: number; readonly shared: number };
type Config = Readonly<Record<string, unknown>>;

export type MoeArchitecture = {
  /** As the recipe's `architecture` names it, by its beginning. */
  readonly name: string;
  /** `model_type` of the dense models, all of one. */
  readonly modelTypes: readonly string[];
  /** How many shared experts it takes. */
  readonly shared: readonly [min: number, max: number];
  /** What follows `model.layers.N.`: the part of the layer that holds the router, `gate.weight`, and the experts. */
  readonly block: string;
  /** Names of an expert's matrices, where they are others than the dense model's. */
  readonly parts?: Readonly<Record<ExpertPart, string>>;
  /** Name in the block of the shared expert, and of its gate, [1, hidden]. */
  readonly sharedExpert?: string;
  readonly sharedGate?: string;
  /** A layer's tensors of the base beside the experts. */
  readonly layer: readonly string[];
  /** Biases that it has in any case: zeros where the base has none. */
  readonly biases: readonly string[];
  /** A number of experts that is no power of two is worth a warning. */
  readonly countsTwos: boolean;
  /** Keys of its config that the dense model's has not, or otherwise; undefined takes a key away. */
  config(dense: Config, counts: MoeCounts): Config;
};

const LAYER = [
  "input_layernorm.weight",
  "post_attention_layernorm.weight",
  ..."qkvo".split("").map((matrix) => `self_attn.${matrix}_proj.weight`),
];

const mixtral: MoeArchitecture = {
  name: "Mixtral",
  modelTypes: ["llama", "mistral"],
  shared: [0, 0],
  block: "block_sparse_moe",
  parts: { gate_proj: "w1", up_proj: "w3", down_proj: "w2" },
  layer: LAYER,
  biases: [],
  countsTwos: true,
  config: (_, { experts, active }) => ({
    architectures: ["MixtralForCausalLM"],
    model_type: "mixtral",
    num_local_experts: experts,
    num_experts_per_tok: active,
    sliding_window: null,
  }),
};

const deepseek: MoeArchitecture = {
  name: "DeepSeek MoE",
  modelTypes: ["llama", "mistral"],
  shared: [0, 1],
  block: "mlp",
  sharedExpert: "shared_experts",
  layer: LAYER,
  biases: [],
  countsTwos: false,
  config: (dense, { experts, active, shared }) => ({
    architectures: ["DeepseekForCausalLM"],
    model_type: "deepseek",
    n_routed_experts: experts,
    n_shared_experts: shared === 0 ? null : shared,
    num_experts_per_tok: active,
    first_k_dense_replace: 0,
    moe_layer_freq: 1,
    scoring_func: "softmax",
    norm_topk_prob: true,
    moe_intermediate_size: dense.intermediate_size,
    // Names of classes on the hub: transformers has none of its own for this first DeepSeek model.
    auto_map: Object.fromEntries(
      [
        ["AutoConfig", "configuration_deepseek.DeepseekConfig"],
        ["AutoModel", "modeling_deepseek.DeepseekModel"],
        ["AutoModelForCausalLM", "modeling_deepseek.DeepseekForCausalLM"],
      ].map(([auto, own]) => [auto, `deepseek-ai/deepseek-moe-16b-base--${own}`]),
    ),
  }),
};

const QWEN_CONFIG = (dense: Config, { experts, active }: MoeCounts): Config => ({
  num_experts: experts,
  num_experts_per_tok: active,
  decoder_sparse_step: 1,
  norm_topk_prob: true,
  moe_intermediate_size: dense.intermediate_size,
});

const qwen2: MoeArchitecture = {
  name: "Qwen MoE",
  modelTypes: ["qwen2", "llama", "mistral"],
  shared: [1, 1],
  block: "mlp",
  sharedExpert: "shared_expert",
  sharedGate: "shared_expert_gate.weight",
  layer: LAYER,
  biases: ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"],
  countsTwos: true,
  config: (dense, counts) => ({
    ...QWEN_CONFIG(dense, counts),
    architectures: ["Qwen2MoeForCausalLM"],
    model_type: "qwen2_moe",
    shared_expert_intermediate_size: dense.intermediate_size,
    sliding_window: null,
    use_sliding_window: false,
    layer_types: undefined,
  }),
};

const qwen3: MoeArchitecture = {
  name: "Qwen3 MoE",
  modelTypes: ["qwen3"],
  shared: [0, 0],
  block: "mlp",
  layer: [...LAYER, "self_attn.q_norm.weight", "self_attn.k_norm.weight"],
  biases: [],
  countsTwos: true,
  config: (dense, counts) => ({
    ...QWEN_CONFIG(dense, counts),
    architectures: ["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
  }),
};

/** In the order in which they are chosen. */
export const MOE_ARCHITECTURES: readonly MoeArchitecture[] = [mixtral, deepseek, qwen2, qwen3];

/**
 * What a dense model's config means where it leaves a key out and the architectures' mean something else, by
 * `model_type`. Left out themselves where the config says `rope_parameters`: transformers 5 keeps rope_theta there.
 */
const DEFAULTS: Readonly<Record<string, Config>> = {
  llama: { max_position_embeddings: 2048, rms_norm_eps: 1e-6, rope_theta: 10_000, bos_token_id: 1, eos_token_id: 2 },
  mistral: {
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    num_key_value_heads: 8,
    bos_token_id: 1,
    eos_token_id: 2,
  },
  qwen2: { num_key_value_heads: 32, rms_norm_eps: 1e-6, rope_theta: 10_000 },
  qwen3: { num_key_value_heads: 32, head_dim: 128, rms_norm_eps: 1e-6, rope_theta: 10_000 },
};

/** A dense model's config, with what its kind means by keys that it leaves out. */
export function denseConfig(dense: Config): Config {
  const type = String(dense.model_type);
  const heads: Config = type === "llama" ? { num_key_value_heads: dense.num_attention_heads } : {};
  const { rope_theta, ...meant }: Config = { ...heads, ...DEFAULTS[type] };
  const rope = "rope_parameters" in dense ? {} : { rope_theta };
  return { ...meant, ...rope, ...dense };
}

/** The config of the mixture: the dense one, with what `architecture` means by keys that it leaves out. */
export function moeConfig(architecture: MoeArchitecture, dense: Config, counts: MoeCounts): Config {
  const config = { ...denseConfig(dense), ...architecture.config(dense, counts) };
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined));
}
