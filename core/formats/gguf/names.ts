// The names of a model on both sides of a GGUF file: architectures, tensors, and which rows move. The families
// themselves are a table, families.ts; used by the writer (model.ts, parts.ts) and by the reader (checkpoint.ts).
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
  /** Every part of a layer but the experts, by its name in the checkpoint. */
  readonly parts: Readonly<Record<string, string>>;
  /** Parts that may have a bias; `output_norm` is the last norm. */
  readonly biases?: readonly string[];
  /** Fields of config.json that say so, each beside a part of which the bias tells its value. */
  readonly biasFields?: Readonly<Record<string, string>>;
  /** True where readers want all of these biases. */
  readonly needsBiases?: boolean;
  /** True where the norms of queries and keys are over all heads; absent: of each one by itself. */
  readonly normsAcross?: boolean;
  /** True where `ffn_up` is two matrices, the gate's rows first. */
  readonly fusesGate?: boolean;
  /** The field with the epsilon of norms that also take the mean off; absent: `rms_norm_eps`, they do not. */
  readonly layerNorm?: string;
  /** Elements of a head where config.json does not say; absent: the hidden size by the heads. */
  readonly headSize?: number;
  /** True where readers take heads to be the hidden size together. */
  readonly fillsHidden?: boolean;
  /** False where readers know no heads that share keys and values. */
  readonly sharesHeads?: boolean;
  readonly experts?: GgufExperts;
  /** What transformers takes where config.json says nothing. */
  readonly defaults?: Readonly<Record<string, unknown>>;
  /** The base of rotary embeddings then; absent: 10000. */
  readonly theta?: number;
  /** What norms' weights are more in GGUF; absent: 0. */
  readonly normShift?: number;
  /** True where the embedding is the output unless config.json says otherwise. */
  readonly tiedByDefault?: boolean;
  /** Whether the embedding is the output in every model that readers know; absent: either. */
  readonly tied?: boolean;
  /** True where a file always states the size of heads. */
  readonly statesHeadSize?: boolean;
  /** True where a file states the size of the vocabulary. */
  readonly statesVocabulary?: boolean;
  /** Where a file states how many values of a head are turned: the part of it that is, unless config.json says. */
  readonly rotary?: number;
  /** True where readers know rotary factors for short and for long texts. */
  readonly takesLong?: boolean;
  /** `hidden_act` and `hidden_activation` of config.json; absent: silu. */
  readonly activation?: string;
  readonly windows?: GgufWindows;
  /** Further entries of a file. */
  readonly entries?: readonly GgufEntry[];
  /** Entries that are the same in every file. */
  readonly constants?: Readonly<Record<string, string>>;
  /** What config.json must say where it says anything: readers know no other. */
  readonly fixed?: Readonly<Record<string, unknown>>;
  /** The kind of each layer, where a file states it. */
  readonly kinds?: GgufLayerKinds;
  /** True where layers of windows have rotary embeddings without the scaling, and a base that a file states. */
  readonly ropeByKinds?: boolean;
  /** An entry that tells the family from others of the same architecture. */
  readonly marker?: string;
  /** Special tokens, by kind, that no file of the model names as such. */
  readonly special?: Readonly<Record<string, string>>;
  /** Fields of config.json with a value for each layer, and the values that readers take as given, repeated. */
  readonly layers?: Readonly<Record<string, readonly unknown[]>>;
};

/** A field of config.json with one of two values for each layer, as an entry with true for the first of them. */
export type GgufLayerKinds = {
  readonly field: string;
  /** After the architecture. */
  readonly key: string;
  readonly values: readonly [string, string];
};

/** A number of config.json that is an entry of the file. */
export type GgufEntry = {
  readonly field: string;
  /** After the architecture. */
  readonly key: string;
  readonly kind: "u32" | "f32";
  /** What the file says where config.json says null or nothing; absent: such a config is refused. */
  readonly absent?: number;
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
  /** The field with the inner size of the expert that sees every token. */
  readonly sharedKey?: string;
};

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
  "model.norm.bias": "output_norm.bias",
};
