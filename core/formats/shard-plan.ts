// Cutting a list of tensors into safetensors shards: which tensor goes where, every file's header bytes and size, and
// the index, all known before a byte of weights is read.
import { MergeyardError } from "../error.ts";
import { tensorBytes } from "../tensor.ts";
import { type EncodedHeader, encodeSafetensorsHeader, type TensorSpec } from "./safetensors.ts";
import { encodeShardIndex } from "./safetensors-index.ts";

/** One file of the output. `tensors` are in file order, their offsets count from the first byte after the header. */
export type PlannedShard = EncodedHeader & { readonly file: string };

export type ShardPlan = {
  readonly shards: readonly PlannedShard[];
  /** The index as a file; undefined for a single shard, which needs none. */
  readonly index: { readonly name: string; readonly text: string } | undefined;
  /** Bytes of all tensors. */
  readonly totalBytes: number;
};

/** What HF's loaders ask for: the framework that wrote the file. */
export const HF_METADATA: ReadonlyMap<string, string> = new Map([["format", "pt"]]);

/**
 * Shards of at most `maxShardBytes` bytes of tensors, filled greedily in the given order. A tensor is never split: one
 * that is larger gets a shard of its own. Names are Hugging Face's: `model.safetensors` when one shard is enough, else
 * `model-00001-of-0000N.safetensors` and an index. No tensors give one shard without any.
 * Throws: SafetensorsNameRepeated, SafetensorsNameInvalid, SafetensorsHeaderTooLarge.
 */
export function planShards(
  tensors: readonly TensorSpec[],
  maxShardBytes: number,
  metadata: ReadonlyMap<string, string> = HF_METADATA,
): ShardPlan {
  const groups = groupTensors(tensors, maxShardBytes);
  const shards = groups.map((group, index) => ({
    file: shardName(index, groups.length),
    ...encodeSafetensorsHeader(group, metadata),
  }));
  const totalBytes = shards.reduce((sum, shard) => sum + shard.fileBytes - shard.header.length, 0);
  if (shards.length === 1) return { shards, index: undefined, totalBytes };
  const weightMap = mapWeights(shards);
  const text = encodeShardIndex(weightMap, totalBytes);
  return { shards, index: { name: "model.safetensors.index.json", text }, totalBytes };
}

function groupTensors(tensors: readonly TensorSpec[], maxShardBytes: number): TensorSpec[][] {
  let group: TensorSpec[] = [];
  let groupBytes = 0;
  const groups = [group];
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor.dtype, tensor.shape);
    if (group.length > 0 && groupBytes + bytes > maxShardBytes) {
      group = [];
      groupBytes = 0;
      groups.push(group);
    }
    group.push(tensor);
    groupBytes += bytes;
  }
  return groups;
}

/** `model-00002-of-00005.safetensors` for index 1 of 5. */
function shardName(index: number, count: number): string {
  const digits = (value: number) => String(value).padStart(5, "0");
  return count === 1 ? "model.safetensors" : `model-${digits(index + 1)}-of-${digits(count)}.safetensors`;
}

function mapWeights(shards: readonly PlannedShard[]): Map<string, string> {
  const weightMap = new Map<string, string>();
  for (const { file, tensors } of shards) {
    for (const { name } of tensors) {
      if (weightMap.has(name)) throw new MergeyardError("SafetensorsNameRepeated", { where: { file, tensor: name } });
      weightMap.set(name, file);
    }
  }
  return weightMap;
}
