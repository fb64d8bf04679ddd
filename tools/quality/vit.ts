// The forward pass of a small vision transformer (ViTModel names, no pooler), for measuring merges of it.
import { add, attention, gelu, layerNorm } from "./layers.ts";
import { createLayers, type Layers, type LinearWeights } from "./linear.ts";
import { numberOf, type Weights } from "./weights.ts";

/** Images in memory at a time. */
const BATCH = 50;

type Norm = { readonly gain: Float32Array; readonly bias: Float32Array };
type Block = {
  readonly before: Norm;
  readonly after: Norm;
  readonly query: LinearWeights;
  readonly key: LinearWeights;
  readonly value: LinearWeights;
  readonly output: LinearWeights;
  readonly up: LinearWeights;
  readonly down: LinearWeights;
};

export type Vit = {
  readonly width: number;
  /** Features [count, width] of grey images: u8 [count, size, size], by rows. */
  features(images: Uint8Array, count: number): Float32Array;
};

/** The model of a folder's tensors; all settings are its config's. */
export function createVit(module: WebAssembly.Module, weights: Weights): Vit {
  const width = numberOf(weights, "hidden_size");
  const [size, patch] = [numberOf(weights, "image_size"), numberOf(weights, "patch_size")];
  const heads = numberOf(weights, "num_attention_heads");
  const side = size / patch;
  const length = side * side + 1;
  const layers = createLayers(module, 64 << 20);
  const embed = loadLinear(layers, weights, "embeddings.patch_embeddings.projection", width, patch * patch);
  const [start, places] = [weights.values("embeddings.cls_token"), weights.values("embeddings.position_embeddings")];
  const blocks = Array.from({ length: numberOf(weights, "num_hidden_layers") }, (_, index) =>
    loadBlock(layers, weights, `encoder.layer.${index}.`),
  );
  const last = loadNorm(weights, "layernorm");
  const rows = BATCH * length;
  const patches = layers.allocate(BATCH * side * side * embed.ins);
  const embedded = layers.allocate(BATCH * side * side * width);
  const inner = layers.allocate(rows * Math.max(...blocks.map(({ up }) => up.outs)));
  const allocate = () => layers.allocate(rows * width);
  const [state, normed, query, key, value] = [allocate(), allocate(), allocate(), allocate(), allocate()] as const;
  const norm = { width, epsilon: numberOf(weights, "layer_norm_eps") };

  const runBlock = (block: Block, batch: number): void => {
    const n = batch * length;
    layerNorm(normed.values, state.values, { ...norm, rows: n }, block.before.gain, block.before.bias);
    layers.linear(query, normed, block.query, n);
    layers.linear(key, normed, block.key, n);
    layers.linear(value, normed, block.value, n);
    const shape = { sequences: batch, length, heads, sharing: 1, headWidth: width / heads, causal: false };
    attention(normed.values, query.values, key.values, value.values, shape);
    layers.linear(query, normed, block.output, n);
    add(state.values, query.values, n * width);
    layerNorm(normed.values, state.values, { ...norm, rows: n }, block.after.gain, block.after.bias);
    layers.linear(inner, normed, block.up, n);
    gelu(inner.values, n * block.up.outs);
    layers.linear(query, inner, block.down, n);
    add(state.values, query.values, n * width);
  };

  const embedImages = (images: Uint8Array, batch: number): void => {
    cutPatches(patches.values, images, { batch, size, patch, stride: embed.ins });
    layers.linear(embedded, patches, embed, batch * side * side);
    for (let image = 0; image < batch; image++) {
      const at = image * length * width;
      state.values.set(start, at);
      const from = image * side * side * width;
      state.values.set(embedded.values.subarray(from, from + side * side * width), at + width);
      add(state.values.subarray(at, at + length * width), places, length * width);
    }
  };

  return {
    width,
    features(images, count) {
      const features = new Float32Array(count * width);
      for (let first = 0; first < count; first += BATCH) {
        const batch = Math.min(BATCH, count - first);
        embedImages(images.subarray(first * size * size), batch);
        for (const block of blocks) runBlock(block, batch);
        for (let image = 0; image < batch; image++) {
          const from = state.values.subarray(image * length * width, (image * length + 1) * width);
          const to = features.subarray((first + image) * width, (first + image + 1) * width);
          layerNorm(to, from, { ...norm, rows: 1 }, last.gain, last.bias);
        }
      }
      return features;
    },
  };
}

function loadNorm(weights: Weights, name: string): Norm {
  return { gain: weights.values(`${name}.weight`), bias: weights.values(`${name}.bias`) };
}

function loadLinear(layers: Layers, weights: Weights, name: string, outs: number, ins: number): LinearWeights {
  return layers.load(weights.values(`${name}.weight`), outs, ins, weights.values(`${name}.bias`));
}

function loadBlock(layers: Layers, weights: Weights, prefix: string): Block {
  const load = (name: string): LinearWeights => {
    const [outs = 0, ins = 0] = weights.shape(`${prefix}${name}.weight`);
    return loadLinear(layers, weights, `${prefix}${name}`, outs, ins);
  };
  return {
    before: loadNorm(weights, `${prefix}layernorm_before`),
    after: loadNorm(weights, `${prefix}layernorm_after`),
    query: load("attention.attention.query"),
    key: load("attention.attention.key"),
    value: load("attention.attention.value"),
    output: load("attention.output.dense"),
    up: load("intermediate.dense"),
    down: load("output.dense"),
  };
}

/** Patches row by row, pixels from -1 to 1; each padded to `stride` numbers. */
function cutPatches(
  into: Float32Array,
  images: Uint8Array,
  { batch, size, patch, stride }: { batch: number; size: number; patch: number; stride: number },
): void {
  const side = size / patch;
  for (let image = 0; image < batch; image++) {
    for (let index = 0; index < side * side; index++) {
      const corner = image * size * size + Math.floor(index / side) * patch * size + (index % side) * patch;
      const to = (image * side * side + index) * stride;
      for (let i = 0; i < patch * patch; i++) {
        const pixel = images[corner + Math.floor(i / patch) * size + (i % patch)] ?? 0;
        into[to + i] = (pixel / 255 - 0.5) / 0.5;
      }
    }
  }
}
