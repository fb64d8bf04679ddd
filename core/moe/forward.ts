// The forward pass of a dense Llama-like model over a few prompts, its weights read row by row as they are needed: what
// is held are the hidden states, whatever the model's size. Sums of products run in float64 and are rounded to float32
// at the end of each operation.
// Source: transformers' modeling_llama.py, modeling_qwen2.py and modeling_qwen3.py, as descriptions of the models.
import type { ReadInput } from "../methods/method.ts";
import { exponential } from "../ops/exponential.ts";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { allocatedBytes, subTile } from "../ops/memory.ts";

export type ForwardSizes = {
  readonly layers: number;
  readonly hidden: number;
  readonly inner: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly headSize: number;
  /** Of all prompts. */
  readonly tokens: number;
};

export type ForwardModel = ForwardSizes & {
  /** Tokens of each prompt. */
  readonly lengths: readonly number[];
  readonly epsilon: number;
  /** Radians that a pair of elements of a head turns by at each position, headSize / 2 of them. */
  readonly frequencies: readonly number[];
  /** Queries, keys and values have biases. */
  readonly biased: boolean;
  /** Heads of queries and keys are normalized. */
  readonly normed: boolean;
};

/** What a layer's inputs are, in order; input 0 of all are the prompts' embeddings, [tokens, hidden]. */
export function layerParts({ biased, normed }: Pick<ForwardModel, "biased" | "normed">): readonly string[] {
  return [
    "input_layernorm.weight",
    ..."qkv".split("").flatMap((part) => {
      const name = `self_attn.${part}_proj`;
      return biased ? [`${name}.weight`, `${name}.bias`] : [`${name}.weight`];
    }),
    ...(normed ? ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] : []),
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
  ];
}

/** Elements of weights that are read at a time, or a row of them. */
const WEIGHT_ELEMENTS = 1 << 18;

/** Kernel memory of a pass. */
export function forwardBytes(sizes: ForwardSizes): number {
  return Object.values(tileElements(sizes)).reduce((sum, elements) => sum + allocatedBytes(4 * elements), 0);
}

function tileElements({ tokens, hidden, inner, heads, keyHeads, headSize }: ForwardSizes) {
  const [query, key] = [heads * headSize, keyHeads * headSize];
  const widest = Math.max(hidden, inner, query);
  return {
    state: tokens * hidden,
    plain: tokens * Math.max(hidden, query),
    wide: tokens * widest,
    other: tokens * widest,
    keys: tokens * key,
    values: tokens * key,
    weights: Math.max(WEIGHT_ELEMENTS, widest),
    vector: widest,
  };
}

type Tiles = Readonly<Record<keyof ReturnType<typeof tileElements>, Tile>>;

function allocateTiles(sizes: ForwardSizes, kernels: Kernels): Tiles {
  const elements = tileElements(sizes);
  const tile = (name: keyof typeof elements): Tile => kernels.allocateTile(elements[name]);
  return {
    state: tile("state"),
    plain: tile("plain"),
    wide: tile("wide"),
    other: tile("other"),
    keys: tile("keys"),
    values: tile("values"),
    weights: tile("weights"),
    vector: tile("vector"),
  };
}

/** The states, [tokens, hidden], that go into each layer, the first the embeddings; each is valid until the next. */
export async function* hiddenStates(model: ForwardModel, kernels: Kernels, read: ReadInput): AsyncGenerator<Tile> {
  const tiles = allocateTiles(model, kernels);
  await read(0, 0, model.tokens * model.hidden, tiles.state);
  yield tiles.state;
  const parts = layerParts(model);
  for (let layer = 0; layer + 1 < model.layers; layer++) {
    const input = (part: string): number => 1 + layer * parts.length + parts.indexOf(part);
    await runLayer({ model, kernels, tiles, read: (part, ...span) => read(input(part), ...span) });
    yield tiles.state;
  }
}

/** A layer: its parts are read by name. */
type Layer = {
  readonly model: ForwardModel;
  readonly kernels: Kernels;
  readonly tiles: Tiles;
  readonly read: (part: string, first: number, count: number, target: Tile) => Promise<void>;
};

async function runLayer(layer: Layer): Promise<void> {
  const { model, kernels, tiles } = layer;
  const { tokens, hidden, inner, heads, keyHeads, headSize } = model;
  const { state, plain, wide, other, keys, values } = tiles;
  await normalize(layer, plain, state, "input_layernorm.weight", tokens, hidden);
  for (const [target, part, count] of [
    [wide, "q", heads],
    [keys, "k", keyHeads],
    [values, "v", keyHeads],
  ] as const) {
    await project(layer, target, plain, `self_attn.${part}_proj`, count * headSize, hidden);
    if (part === "v") continue;
    if (model.normed) {
      await normalize(layer, target, target, `self_attn.${part}_norm.weight`, tokens * count, headSize);
    }
    rotate(target.values, model, count);
  }
  attend(layer, plain);
  await project(layer, other, plain, "self_attn.o_proj", hidden, heads * headSize);
  kernels.add(state, state, other, tokens * hidden);
  await normalize(layer, plain, state, "post_attention_layernorm.weight", tokens, hidden);
  await project(layer, wide, plain, "mlp.gate_proj", inner, hidden);
  await project(layer, other, plain, "mlp.up_proj", inner, hidden);
  gate(wide.values, other.values, tokens * inner);
  await project(layer, other, wide, "mlp.down_proj", hidden, inner);
  kernels.add(state, state, other, tokens * hidden);
}

/** target [tokens, rows] = source [tokens, columns] times the transposed weight [rows, columns], plus its bias. */
async function project(
  { model, kernels, tiles, read }: Layer,
  target: Tile,
  source: Tile,
  part: string,
  rows: number,
  columns: number,
): Promise<void> {
  const { weights, vector } = tiles;
  const tokens = Array.from({ length: model.tokens }, (_, token) => subTile(source, token * columns, columns));
  const isBiased = model.biased && /[qkv]_proj$/.test(part);
  if (isBiased) await read(`${part}.bias`, 0, rows, vector);
  const atOnce = Math.max(1, Math.floor(WEIGHT_ELEMENTS / columns));
  for (let first = 0; first < rows; first += atOnce) {
    const count = Math.min(atOnce, rows - first);
    await read(`${part}.weight`, first * columns, count * columns, weights);
    for (let row = first; row < first + count; row++) {
      const weight = subTile(weights, (row - first) * columns, columns);
      const bias = isBiased ? (vector.values[row] ?? 0) : 0;
      tokens.forEach((own, token) => {
        target.values[token * rows + row] = kernels.dot(own, weight, columns) + bias;
      });
    }
  }
}

/** Rows of `width`, each divided by the root of its mean square, times the part; the target may be the source. */
async function normalize(
  { model, kernels, tiles, read }: Layer,
  target: Tile,
  source: Tile,
  part: string,
  rows: number,
  width: number,
): Promise<void> {
  await read(part, 0, width, tiles.vector);
  const gain = tiles.vector.values;
  for (let row = 0; row < rows; row++) {
    const own = subTile(source, row * width, width);
    const scale = 1 / Math.sqrt(kernels.dot(own, own, width) / width + model.epsilon);
    for (let i = 0; i < width; i++) target.values[row * width + i] = (own.values[i] ?? 0) * scale * (gain[i] ?? 0);
  }
}

/** Rotary positions in their half form: element i of a head turns with element i + headSize / 2. */
function rotate(x: Float32Array, { lengths, headSize, frequencies }: ForwardModel, heads: number): void {
  const half = headSize / 2;
  let at = 0;
  for (const length of lengths) {
    for (let position = 0; position < length; position++) {
      const turns = frequencies.map((frequency) => [Math.cos(position * frequency), Math.sin(position * frequency)]);
      for (let head = 0; head < heads; head++, at += headSize) {
        turns.forEach(([cosine = 1, sine = 0], i) => {
          const [a, b] = [x[at + i] ?? 0, x[at + i + half] ?? 0];
          x[at + i] = a * cosine - b * sine;
          x[at + i + half] = b * cosine + a * sine;
        });
      }
    }
  }
}

/** softmax(q k^T / sqrt(headSize)) v in each prompt, a token seeing those up to itself; several heads share keys. */
function attend({ model, kernels, tiles }: Layer, target: Tile): void {
  const { lengths, heads, keyHeads, headSize } = model;
  const { wide: queries, keys, values } = tiles;
  const scores = new Float64Array(Math.max(...lengths));
  const row = (tile: Tile, count: number, token: number, head: number): Tile =>
    subTile(tile, (token * count + head) * headSize, headSize);
  let start = 0;
  for (const length of lengths) {
    for (let token = start; token < start + length; token++) {
      for (let head = 0; head < heads; head++) {
        const shared = Math.floor((head * keyHeads) / heads);
        const query = row(queries, heads, token, head);
        const seen = token - start + 1;
        for (let i = 0; i < seen; i++) {
          scores[i] = kernels.dot(query, row(keys, keyHeads, start + i, shared), headSize) / Math.sqrt(headSize);
        }
        const total = softmax(scores.subarray(0, seen));
        const sums = new Float64Array(headSize);
        for (let i = 0; i < seen; i++) {
          const own = row(values, keyHeads, start + i, shared).values;
          for (let j = 0; j < headSize; j++) sums[j] = (sums[j] ?? 0) + ((scores[i] ?? 0) * (own[j] ?? 0)) / total;
        }
        row(target, heads, token, head).values.set(sums);
      }
    }
    start += length;
  }
}

/** e to the difference from the largest, in place; returns the sum. */
function softmax(scores: Float64Array): number {
  const largest = scores.reduce((most, score) => Math.max(most, score), Number.NEGATIVE_INFINITY);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) {
    scores[i] = exponential((scores[i] ?? 0) - largest);
    sum += scores[i] ?? 0;
  }
  return sum;
}

/** x = silu(x) up. */
function gate(x: Float32Array, up: Float32Array, count: number): void {
  for (let i = 0; i < count; i++) {
    const value = x[i] ?? 0;
    const power = exponential(-Math.abs(value));
    x[i] = ((value * (value < 0 ? power : 1)) / (1 + power)) * (up[i] ?? 0);
  }
}
