// Small checkpoints for pipeline tests: two layers, three shards, an index, a config and a tokenizer, as a team would
// upload them. The values follow from the seed alone.
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { putText } from "./deps.ts";

const SHAPES: readonly (readonly [string, readonly number[]])[] = [
  ["model.embed_tokens.weight", [16, 8]],
  ["model.layers.0.mlp.up_proj.weight", [24, 8]],
  ["model.layers.1.mlp.up_proj.weight", [24, 8]],
  ["model.norm.weight", [8]],
];

/** Tensors of each shard, by index into SHAPES. */
const SHARDS = [[0], [1, 2], [3]];

export type SmallModel = {
  readonly seed: number;
  /** Index of an element of the first tensor that is NaN. */
  readonly nanAt?: number | undefined;
  /** Magnitudes alone, as statistics of models are. */
  readonly positive?: boolean | undefined;
  /** Index of a tensor that has other values than the seed's. */
  readonly changedTensor?: number | undefined;
};

/** float32 values in (-1, 1), never 0. */
function values(seed: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, index) => Math.sin(seed * 1000 + index + 1) * 0.9 + 0.05);
}

function shardBytes(
  tensors: readonly number[],
  { seed, nanAt, positive = false, changedTensor }: SmallModel,
): Uint8Array {
  const specs = tensors.map((index) => {
    const [name = "", shape = []] = SHAPES[index] ?? [];
    return { name, dtype: "F32" as const, shape, index };
  });
  return encodeSafetensorsFile(specs, ({ name, bytes }) => {
    const index = SHAPES.findIndex(([known]) => known === name);
    const drawn = values(seed * 10 + index + (index === changedTensor ? 5 : 0), bytes / 4);
    const data = positive ? drawn.map(Math.abs) : drawn;
    if (index === 0 && nanAt !== undefined) data[nanAt] = Number.NaN;
    return data;
  });
}

/** Writes the model's files below `prefix`; the index last, which makes the upload complete. */
export async function putModel(store: ObjectStore, prefix: string, model: SmallModel): Promise<void> {
  const weightMap: Record<string, string> = {};
  for (const [shard, tensors] of SHARDS.entries()) {
    const name = `model-0000${shard + 1}-of-00003.safetensors`;
    const bytes = shardBytes(tensors, model);
    await writeBytes(store, `${prefix}${name}`, bytes);
    for (const index of tensors) weightMap[SHAPES[index]?.[0] ?? ""] = name;
  }
  const config = { architectures: ["LlamaForCausalLM"], model_type: "llama", hidden_size: 8, num_hidden_layers: 2 };
  await putText(store, `${prefix}config.json`, JSON.stringify({ ...config, vocab_size: 16, torch_dtype: "float32" }));
  await putText(store, `${prefix}tokenizer.json`, `{"seed": "the same for all"}`);
  await putText(
    store,
    `${prefix}model.safetensors.index.json`,
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  );
}
