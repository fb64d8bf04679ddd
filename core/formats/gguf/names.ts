// The names of a llama-family model on both sides of a GGUF file: architectures, tensors, and which rows move. Used by
// the writer (model.ts) and by the reader (checkpoint.ts).
// Source: llama.cpp's converter c392e509; quantization reference section 2.

/** A model_type of config.json and what GGUF makes of it. */
export type GgufFamily = {
  readonly modelType: string;
  /** `architectures` of config.json. */
  readonly className: string;
  /** Value of `general.architecture`. */
  readonly architecture: string;
  /** True where rows of queries and keys are interleaved in GGUF and halves in config.json's model. */
  readonly permutes: boolean;
  /** True where queries and keys of every head have a norm, and no bias. */
  readonly hasHeadNorms: boolean;
  /** Elements of a head where config.json does not say; absent: the hidden size by the heads. */
  readonly headSize?: number;
  readonly experts?: GgufExperts;
};

/** A layer with experts: its router, and the names of expert `E`. */
export type GgufExperts = {
  readonly router: string;
  readonly parts: Readonly<Record<"gate" | "up" | "down", string>>;
  /** Where config.json says how many there are, and their inner size. */
  readonly countKey: "num_local_experts" | "num_experts";
  readonly innerKey: "intermediate_size" | "moe_intermediate_size";
  /** What config.json must say: readers of GGUF know no other. */
  readonly fixed: Readonly<Record<string, unknown>>;
};

/** Of two with the same architecture and experts, a reader takes the first. */
export const GGUF_FAMILIES: readonly GgufFamily[] = Object.freeze([
  { modelType: "llama", className: "LlamaForCausalLM", architecture: "llama", permutes: true, hasHeadNorms: false },
  { modelType: "mistral", className: "MistralForCausalLM", architecture: "llama", permutes: true, hasHeadNorms: false },
  {
    modelType: "mixtral",
    className: "MixtralForCausalLM",
    architecture: "llama",
    permutes: true,
    hasHeadNorms: false,
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
  { modelType: "qwen2", className: "Qwen2ForCausalLM", architecture: "qwen2", permutes: false, hasHeadNorms: false },
  {
    modelType: "qwen3",
    className: "Qwen3ForCausalLM",
    architecture: "qwen3",
    permutes: false,
    hasHeadNorms: true,
    headSize: 128,
  },
  {
    modelType: "qwen3_moe",
    className: "Qwen3MoeForCausalLM",
    architecture: "qwen3moe",
    permutes: false,
    hasHeadNorms: true,
    experts: {
      router: "mlp.gate",
      parts: { gate: "mlp.experts.E.gate_proj", up: "mlp.experts.E.up_proj", down: "mlp.experts.E.down_proj" },
      countKey: "num_experts",
      innerKey: "moe_intermediate_size",
      fixed: { norm_topk_prob: true },
    },
  },
]);

const EXPERT = /\.experts\.(\d+)\./;

/** The name of all the experts of a layer together, and which of them a tensor is; undefined for any other tensor. */
export function stackOf(name: string): { readonly stack: string; readonly expert: number } | undefined {
  const number = EXPERT.exec(name)?.[1];
  return number === undefined ? undefined : { stack: name.replace(EXPERT, ".experts.*."), expert: Number(number) };
}

/** Tensors outside of the layers. */
export const GGUF_OUTSIDE: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};

/** Parts of a layer that every model has. */
export const GGUF_INSIDE: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

/** Parts of a layer that models with norms of heads have. */
export const GGUF_OPTIONAL: Readonly<Record<string, string>> = {
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
};
