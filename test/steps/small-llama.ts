// A small model of the llama family with everything that a GGUF file of it holds: two layers, grouped heads, rows of
// 288 elements that not every block divides. The values follow from the tensor's place alone.
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { putText } from "./deps.ts";

const CONFIG = {
  model_type: "llama",
  hidden_size: 256,
  intermediate_size: 288,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 6,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  bos_token_id: 0,
  eos_token_id: [1, 2],
};

type Config = Readonly<Record<string, unknown>>;

/** Tensors by name. */
export function shapesOf(isQwen: boolean): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>([
    ["model.embed_tokens.weight", [6, 256]],
    ["model.norm.weight", [256]],
    ["lm_head.weight", [6, 256]],
  ]);
  for (const layer of [0, 1]) {
    const parts: readonly (readonly [string, readonly number[]])[] = [
      ["input_layernorm.weight", [256]],
      ["post_attention_layernorm.weight", [256]],
      ["self_attn.q_proj.weight", [256, 256]],
      ["self_attn.k_proj.weight", [128, 256]],
      ["self_attn.v_proj.weight", [128, 256]],
      ["self_attn.o_proj.weight", [256, 256]],
      ["mlp.gate_proj.weight", [288, 256]],
      ["mlp.up_proj.weight", [288, 256]],
      ["mlp.down_proj.weight", [256, 288]],
      ["self_attn.rotary_emb.inv_freq", [32]],
      ...(isQwen ? ([["self_attn.q_proj.bias", [256]]] as const) : []),
    ];
    for (const [name, shape] of parts) shapes.set(`model.layers.${layer}.${name}`, shape);
  }
  return shapes;
}

/** How a model differs from the usual one. */
export type Change = {
  readonly config?: Config;
  readonly without?: string;
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /** Value of the first element of a tensor. */
  readonly first?: Readonly<Record<string, number>>;
};

/** Writes the model below `prefix`. */
export async function putLlama(
  store: ObjectStore,
  { config = {}, without, shapes = {}, first = {} }: Change = {},
  prefix = "",
) {
  const all = new Map([...shapesOf(config.model_type === "qwen2"), ...Object.entries(shapes)]);
  if (without !== undefined) all.delete(without);
  const specs = [...all].map(([name, shape]) => ({ name, dtype: "F32" as const, shape }));
  const file = encodeSafetensorsFile(specs, ({ name, bytes }, seed) => {
    const values = Float32Array.from({ length: bytes / 4 }, (_, i) => Math.sin(seed * 37 + i * 0.7) * 0.1);
    if (first[name] !== undefined) values[0] = first[name];
    return values;
  });
  await writeBytes(store, `${prefix}model.safetensors`, file);
  await putText(store, `${prefix}config.json`, JSON.stringify({ ...CONFIG, ...config }));
}
