// The names of a llama-family model on both sides of a GGUF file: architectures, tensors, and which rows move. Used by
// the writer (gguf-model.ts) and by the reader (gguf-checkpoint.ts).
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
  /** True where a checkpoint of it can be written as GGUF; all are read. */
  readonly canWrite: boolean;
  /** Where a layer has experts: its router, and the names of expert `E`, for gate, up and down. */
  readonly experts?: { readonly router: string; readonly parts: Readonly<Record<"gate" | "up" | "down", string>> };
};

const experts = (router: string, gate: string, up: string, down: string): Required<GgufFamily>["experts"] => ({
  router,
  parts: { gate, up, down },
});

/** Of two with the same architecture and experts, a reader takes the first. */
export const GGUF_FAMILIES: readonly GgufFamily[] = Object.freeze([
  { modelType: "llama", className: "LlamaForCausalLM", architecture: "llama", permutes: true, canWrite: true },
  { modelType: "mistral", className: "MistralForCausalLM", architecture: "llama", permutes: true, canWrite: true },
  {
    modelType: "mixtral",
    className: "MixtralForCausalLM",
    architecture: "llama",
    permutes: true,
    canWrite: false,
    experts: experts(
      "block_sparse_moe.gate",
      "block_sparse_moe.experts.E.w1",
      "block_sparse_moe.experts.E.w3",
      "block_sparse_moe.experts.E.w2",
    ),
  },
  { modelType: "qwen2", className: "Qwen2ForCausalLM", architecture: "qwen2", permutes: false, canWrite: true },
  { modelType: "qwen3", className: "Qwen3ForCausalLM", architecture: "qwen3", permutes: false, canWrite: false },
  {
    modelType: "qwen3_moe",
    className: "Qwen3MoeForCausalLM",
    architecture: "qwen3moe",
    permutes: false,
    canWrite: false,
    experts: experts("mlp.gate", "mlp.experts.E.gate_proj", "mlp.experts.E.up_proj", "mlp.experts.E.down_proj"),
  },
]);

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

/** Parts of a layer that some models have. */
export const GGUF_OPTIONAL: Readonly<Record<string, string>> = {
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
};
