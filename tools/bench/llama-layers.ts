// What the layers of a model of the llama family are made of, for models that benches make.
import type { Shape } from "../../core/tensor.ts";

type LlamaSizes = {
  readonly layers: number;
  readonly hidden: number;
  readonly inner: number;
  /** Rows of keys and of values. */
  readonly keys: number;
};

/** Names and shapes of the layers' parameters: sorted within a layer, as published files have them. */
export function llamaLayers({ layers, hidden, inner, keys }: LlamaSizes): readonly (readonly [string, Shape])[] {
  const shapes: readonly (readonly [string, Shape])[] = [
    ["input_layernorm", [hidden]],
    ["mlp.down_proj", [hidden, inner]],
    ["mlp.gate_proj", [inner, hidden]],
    ["mlp.up_proj", [inner, hidden]],
    ["post_attention_layernorm", [hidden]],
    ["self_attn.k_proj", [keys, hidden]],
    ["self_attn.o_proj", [hidden, hidden]],
    ["self_attn.q_proj", [hidden, hidden]],
    ["self_attn.v_proj", [keys, hidden]],
  ];
  return Array.from({ length: layers }, (_, layer) =>
    shapes.map(([name, shape]) => [`model.layers.${layer}.${name}.weight`, shape] as const),
  ).flat();
}
