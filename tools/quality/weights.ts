// A checkpoint's tensors as float32, read through the product's own readers.
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { readTensors, type Tensor, valuesOf } from "../golden/tensors.ts";

export type Weights = {
  readonly config: Readonly<Record<string, unknown>>;
  /** float32 values of a tensor; throws when there is none of that name. */
  values(name: string): Float32Array;
  shape(name: string): readonly number[];
};

/** All tensors of a model folder. */
export async function readWeights(folder: string): Promise<Weights> {
  const store = createDirectoryStore(folder, { durable: false });
  const { checkpoint } = await openCheckpoint(store, "");
  const tensors = await readTensors(store, checkpoint);
  const find = (name: string): Tensor => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`${folder} has no tensor ${name}`);
    return tensor;
  };
  return {
    config: checkpoint.config ?? {},
    values: (name) => valuesOf(find(name)),
    shape: (name) => find(name).shape,
  };
}

/** Tensors of one safetensors file, as they are stored. */
export async function readTensorFile(folder: string, file: string): Promise<ReadonlyMap<string, Tensor>> {
  const store = createDirectoryStore(folder, { durable: false });
  return readTensors(store, (await openCheckpointFile(store, file)).checkpoint);
}

/** A number of a config; `fallback` where it has none. */
export function numberOf({ config }: Pick<Weights, "config">, key: string, fallback?: number): number {
  const value = config[key] ?? fallback;
  if (typeof value !== "number") throw new Error(`config.json has no number ${key}`);
  return value;
}
