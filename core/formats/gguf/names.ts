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
  /** Parts of a layer, where they are not the llama family's. */
  readonly inside?: Readonly<Record<string, string>>;
  /** What norms' weights are more in GGUF; absent: 0. */
  readonly normShift?: number;
  /** True where the embedding is the output unless config.json says otherwise. */
  readonly tiedByDefault?: boolean;
  /** True where a file always states the size of heads. */
  readonly statesHeadSize?: boolean;
  /** `hidden_act` and `hidden_activation` of config.json; absent: silu. */
  readonly activation?: string;
  /** True where queries, keys and values never have a bias. */
  readonly refusesBias?: boolean;
  readonly windows?: GgufWindows;
};

/** Layers of which every `pattern`-th sees all tokens, and the others a window. */
export type GgufWindows = {
  readonly pattern: number;
  /** What readers take where a file does not say. */
  readonly window: number;
  /** Layers of the model whose attention is scaled by the hidden size over the heads. */
  readonly largeLayers: number;
  /** True where logits are capped. */
  readonly capped: boolean;
  /** True where the layers of windows have rotary embeddings of their own base. */
  readonly localTheta: boolean;
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

/** Parts of a layer, those with norms before and after both of its halves. */
const NORMED_TWICE: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};

const GEMMA = {
  permutes: false,
  headSize: 256,
  normShift: 1,
  tiedByDefault: true,
  statesHeadSize: true,
  activation: "gelu_pytorch_tanh",
  refusesBias: true,
};

/** Of two with the same architecture and experts, a reader takes the first. */
export const GGUF_FAMILIES: readonly GgufFamily[] = Object.freeze<GgufFamily[]>([
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
  { ...GEMMA, modelType: "gemma", className: "GemmaForCausalLM", architecture: "gemma", hasHeadNorms: false },
  {
    ...GEMMA,
    modelType: "gemma2",
    className: "Gemma2ForCausalLM",
    architecture: "gemma2",
    hasHeadNorms: false,
    inside: NORMED_TWICE,
    windows: { pattern: 2, window: 4096, largeLayers: 46, capped: true, localTheta: false },
  },
  {
    ...GEMMA,
    modelType: "gemma3_text",
    className: "Gemma3ForCausalLM",
    architecture: "gemma3",
    hasHeadNorms: true,
    inside: NORMED_TWICE,
    windows: { pattern: 6, window: 1024, largeLayers: 62, capped: false, localTheta: true },
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

/** Parts of a layer that every model has, and the norms that most have. */
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
