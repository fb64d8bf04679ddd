// The forward pass of a small llama or mixtral decoder (Hugging Face names), for measuring what is made of it.
import { createFeedForwards, loadLinear, type OnRoute } from "./feed-forward.ts";
import { add, attention, rmsNorm } from "./layers.ts";
import { createLayers, type Layers, type LinearWeights } from "./linear.ts";
import { numberOf, type Weights } from "./weights.ts";

/** Positions in memory at a time, in whole sequences. */
const BATCH_POSITIONS = 1024;

type Block = {
  readonly attentionNorm: Float32Array;
  readonly query: LinearWeights;
  readonly key: LinearWeights;
  readonly value: LinearWeights;
  readonly output: LinearWeights;
  readonly mlpNorm: Float32Array;
};

export type Llama = {
  readonly vocabulary: number;
  /** Sequences that `logits` takes at once. */
  sequencesMax(length: number): number;
  /** Logits [sequences * length, vocabulary] of token ids [sequences, length]; valid until the next call. */
  logits(ids: Uint8Array, sequences: number, length: number): Float32Array;
};

/** The model of a folder's tensors; all settings are its config's. `onRoute` hears what routers of experts say. */
export function createLlama(module: WebAssembly.Module, weights: Weights, onRoute?: OnRoute): Llama {
  const [width, heads] = [numberOf(weights, "hidden_size"), numberOf(weights, "num_attention_heads")];
  const keyHeads = numberOf(weights, "num_key_value_heads");
  const headWidth = numberOf(weights, "head_dim", width / heads);
  const layers = createLayers(module, 96 << 20);
  const blocks = Array.from({ length: numberOf(weights, "num_hidden_layers") }, (_, index) =>
    loadBlock(layers, weights, `model.layers.${index}.`),
  );
  const embedding = weights.values("model.embed_tokens.weight");
  const lastNorm = weights.values("model.norm.weight");
  const head = loadLinear(layers, weights, "lm_head");
  const rows = BATCH_POSITIONS;
  const feedForwards = createFeedForwards(layers, weights, rows, onRoute);
  const [state, normed] = [layers.allocate(rows * width), layers.allocate(rows * Math.max(width, heads * headWidth))];
  const query = layers.allocate(rows * Math.max(width, heads * headWidth));
  const [key, value] = [layers.allocate(rows * keyHeads * headWidth), layers.allocate(rows * keyHeads * headWidth)];
  const logits = layers.allocate(rows * head.outs);
  const norm = { width, epsilon: numberOf(weights, "rms_norm_eps") };
  const theta = numberOf(weights, "rope_theta");

  const runBlock = (block: Block, index: number, sequences: number, length: number): void => {
    const n = sequences * length;
    rmsNorm(normed.values, state.values, { ...norm, rows: n }, block.attentionNorm);
    layers.linear(query, normed, block.query, n);
    layers.linear(key, normed, block.key, n);
    layers.linear(value, normed, block.value, n);
    rotate(query.values, { rows: n, length, heads, headWidth, theta });
    rotate(key.values, { rows: n, length, heads: keyHeads, headWidth, theta });
    const shape = { sequences, length, heads, sharing: heads / keyHeads, headWidth, causal: true };
    attention(normed.values, query.values, key.values, value.values, shape);
    layers.linear(query, normed, block.output, n);
    add(state.values, query.values, n * width);
    rmsNorm(normed.values, state.values, { ...norm, rows: n }, block.mlpNorm);
    feedForwards[index]?.(query, normed, n);
    add(state.values, query.values, n * width);
  };

  return {
    vocabulary: head.outs,
    sequencesMax: (length) => Math.max(1, Math.floor(rows / length)),
    logits(ids, sequences, length) {
      const n = sequences * length;
      for (let row = 0; row < n; row++) {
        const from = (ids[row] ?? 0) * width;
        state.values.set(embedding.subarray(from, from + width), row * width);
      }
      for (const [index, block] of blocks.entries()) runBlock(block, index, sequences, length);
      rmsNorm(normed.values, state.values, { ...norm, rows: n }, lastNorm);
      layers.linear(logits, normed, head, n);
      return logits.values.subarray(0, n * head.outs);
    },
  };
}

function loadBlock(layers: Layers, weights: Weights, prefix: string): Block {
  const linear = (name: string) => loadLinear(layers, weights, `${prefix}${name}`);
  return {
    attentionNorm: weights.values(`${prefix}input_layernorm.weight`),
    query: linear("self_attn.q_proj"),
    key: linear("self_attn.k_proj"),
    value: linear("self_attn.v_proj"),
    output: linear("self_attn.o_proj"),
    mlpNorm: weights.values(`${prefix}post_attention_layernorm.weight`),
  };
}

/** Rotary embedding in its half form, in place: element i of a head turns with element i + headWidth / 2. */
function rotate(
  x: Float32Array,
  shape: { rows: number; length: number; heads: number; headWidth: number; theta: number },
): void {
  const { rows, length, heads, headWidth, theta } = shape;
  const half = headWidth / 2;
  for (let i = 0; i < half; i++) {
    const frequency = theta ** (-(2 * i) / headWidth);
    for (let row = 0; row < rows; row++) {
      const angle = (row % length) * frequency;
      const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
      for (let head = 0, at = row * heads * headWidth + i; head < heads; head++, at += headWidth) {
        const [a, b] = [x[at] ?? 0, x[at + half] ?? 0];
        x[at] = a * cosine - b * sine;
        x[at + half] = b * cosine + a * sine;
      }
    }
  }
}
